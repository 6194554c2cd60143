//! The command line as a whole.

use clap::Parser;

use crate::command::{Command, Context};
use crate::error::Error;

/// A distributed, durable, sharded document store
///
/// Results go to standard output, everything else to standard error.
///
/// Exit status: 0 done; 1 failed; 2 wrong usage; 3 the key, index or condition asked about does
/// not hold; 130 and 143 ended by Ctrl-C and by SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "sherd", version, propagate_version = true, after_long_help = ENVIRONMENT)]
pub(crate) struct Cli {
    /// The cluster's bootstrap, for the commands that use a cluster
    #[arg(
        short,
        long,
        global = true,
        display_order = OF_ALL_COMMANDS,
        value_name = "HOST:PORT",
        env = "SHERD_BOOTSTRAP",
        default_value = "127.0.0.1:9192",
        value_parser = parse_address
    )]
    bootstrap: String,
    /// Print results as JSON, one value a line, for programs; nodes and `up` ignore it
    #[arg(long, global = true, display_order = OF_ALL_COMMANDS)]
    json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Where the options that all commands have stand in the help: behind a command's own, which are what one
/// looks for, and before --help.
const OF_ALL_COMMANDS: usize = 900;

const ENVIRONMENT: &str = "\
Environment:
  SHERD_BOOTSTRAP  where --bootstrap is not given
  SHERD_TOKEN      the cluster's shared secret, for nodes and clients alike
  SHERD_LOG        what is logged, such as debug or sherd_server=trace";

impl Cli {
    /// What all commands share.
    ///
    /// # Errors
    /// When the environment's token is no text.
    pub(crate) fn context(&self) -> Result<Context, Error> {
        let token = match std::env::var("SHERD_TOKEN") {
            Ok(token) => Some(token).filter(|token| !token.is_empty()),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(Error::Usage("SHERD_TOKEN is not UTF-8".to_owned()));
            }
        };
        Ok(Context { bootstrap: self.bootstrap.clone(), json: self.json, token })
    }
}

/// Checks that an address has the form `HOST:PORT`.
pub(crate) fn parse_address(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(port)) if port != 0 => Ok(text.to_owned()),
        _ => Err("expected HOST:PORT, such as 127.0.0.1:9192".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_commands_own_options_come_first_in_its_help() {
        let mut cli = Cli::command();
        cli.build();
        let import = cli.find_subcommand_mut("import").expect("there is one");
        let help = import.render_long_help().to_string();
        let place = |option: &str| help.find(option).unwrap_or_else(|| panic!("{option}: {help}"));
        assert!(place("--resume\n") < place("--bootstrap <"), "{help}");
        assert!(place("--bootstrap <") < place("--help\n"), "{help}");
    }

    #[test]
    fn addresses() {
        for good in ["localhost:1", "127.0.0.1:9192", "[::1]:65535"] {
            assert_eq!(parse_address(good), Ok(good.to_owned()));
        }
        for bad in ["", "localhost", ":1", "localhost:", "localhost:0", "localhost:65536", "h:p"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn negative_numbers_are_keys_and_values() {
        let cli =
            Cli::try_parse_from(["sherd", "write", "i", "-5", "-0.5", "--overwrite"]).unwrap();
        assert!(format!("{cli:?}").contains("\"-0.5\""));
        assert!(Cli::try_parse_from(["sherd", "read", "i", "-5"]).is_ok());
        // A key alone is no document.
        assert!(Cli::try_parse_from(["sherd", "write", "i", "k"]).is_err());
    }
}

//! Starts the children, watches over them, says what goes on, and stops them.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use sherd_client::Client;
use sherd_protocol::RangeMap;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::command::Context;
use crate::error::Error;
use crate::node::StopSignals;
use crate::output::{say, table};
use crate::units::Durability;

use super::child::{Event, Spec, Wish, supervise};
use super::{DataDir, Plan};

/// How often the cluster is asked whether all of it serves: well below what a person notices.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// After this long, what is being waited for is said, and again each time it has passed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the ports of an earlier run may stay taken: its processes may still be finishing.
const PORT_PATIENCE: Duration = Duration::from_secs(10);

/// A signal that comes again this soon is the same one: some senders signal a process and its
/// group.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// How long the shards wait with stopping until bootstrap has, or will have begun to.
const HEAD_START: Duration = Duration::from_millis(500);

/// Events that wait to be handled; a child has one at most on its way.
const EVENT_QUEUE: usize = 16;

/// How this run of the cluster is to be.
pub(crate) struct How {
    /// When writes are acknowledged.
    pub(crate) durability: Durability,
    /// Shards whose data are lost, and that are to begin empty.
    pub(crate) lost: Vec<String>,
}

/// Runs the cluster until a signal asks to stop.
///
/// # Errors
/// When it cannot be started, or when a child does not stop cleanly; a child that ends before is no
/// error but is started again.
pub(crate) async fn run(
    context: &Context,
    data: &DataDir,
    plan: Plan,
    stored: bool,
    how: How,
) -> Result<(), Error> {
    let mut signals = StopSignals::catch()?;
    tokio::select! {
        free = ports_free(&plan, stored) => free?,
        _ = signals.received() => return Ok(()),
    }
    let (sender, mut events) = mpsc::channel(EVENT_QUEUE);
    let mut cluster = Cluster {
        context,
        data,
        plan,
        stored,
        how,
        program: program()?,
        members: Vec::new(),
        state: State::Incomplete,
        since: Instant::now(),
        introduced: false,
        events: sender,
        wish: watch::Sender::new(Wish::Run),
    };
    cluster.start_shards();
    let result = loop {
        if let Err(error) = cluster.start_bootstrap_once_it_can() {
            break Err(error);
        }
        tokio::select! {
            Some(event) = events.recv() => if let Err(error) = cluster.handle(event) {
                break Err(error);
            },
            map = cluster.checked() => cluster.announce(map.as_ref()),
            signal = signals.received() => {
                say!("stopping the cluster on {signal}");
                break Ok(());
            }
        }
    };
    let clean = cluster.stop(events, &mut signals).await;
    match result {
        // Which one, and how, was said.
        Ok(()) if !clean => Err(Error::FailedSaid),
        result => result,
    }
}

/// This program, to be started again as a node.
fn program() -> Result<PathBuf, Error> {
    std::env::current_exe()
        .map_err(|error| Error::Failed(format!("cannot find this program: {error}")))
}

/// Waits until the plan's ports are free. On a first start they must be at once.
async fn ports_free(plan: &Plan, stored: bool) -> Result<(), Error> {
    let deadline = Instant::now() + PORT_PATIENCE;
    let mut said = false;
    loop {
        match plan.check_ports() {
            Err(Error::Listen { address, error })
                if stored && error.kind() == std::io::ErrorKind::AddrInUse =>
            {
                if Instant::now() >= deadline {
                    return Err(Error::Failed(format!(
                        "{address} is in use by another process, and the cluster's ports are \
                         fixed: stop that process"
                    )));
                }
                if !said {
                    said = true;
                    say!("{address} is in use: waiting for an earlier run to finish");
                }
            }
            result => return result,
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// A child as the table shows it. The shards come first, in the plan's order, then bootstrap.
struct Member {
    name: String,
    role: &'static str,
    data: PathBuf,
    /// Process id and address, while it serves.
    serving: Option<(u32, SocketAddr)>,
    /// It has served before, so that its next start is a restart.
    has_served: bool,
}

/// What is known of the cluster as a whole.
enum State {
    /// Some child does not serve.
    Incomplete,
    /// All children serve, and it is being found out whether the cluster does.
    Checking(JoinHandle<RangeMap>),
    /// The ready line has been printed.
    Ready,
}

struct Cluster<'a> {
    context: &'a Context,
    data: &'a DataDir,
    plan: Plan,
    /// The plan is in the data directory.
    stored: bool,
    how: How,
    program: PathBuf,
    members: Vec<Member>,
    state: State,
    /// Since when it has not been whole.
    since: Instant,
    /// The table has been printed.
    introduced: bool,
    events: mpsc::Sender<Event>,
    wish: watch::Sender<Wish>,
}

impl Cluster<'_> {
    fn start_shards(&mut self) {
        for shard in self.plan.shards.clone() {
            let durability = vec!["--durability".into(), self.how.durability.to_string().into()];
            self.start("shard", &shard.name, &shard.host, shard.port, durability);
        }
    }

    /// Starts bootstrap when all shards have ports, for its config needs them; and stores them,
    /// if that has not been done.
    fn start_bootstrap_once_it_can(&mut self) -> Result<(), Error> {
        let ports_known = self.plan.shards.iter().all(|shard| shard.port != 0);
        if self.members.len() > self.plan.shards.len() || !ports_known {
            return Ok(());
        }
        if !self.stored {
            self.data.save(&self.plan)?;
            self.stored = true;
        }
        let mut config = vec!["--config".into(), self.data.config().into()];
        config.extend(self.how.lost.iter().flat_map(|shard| ["--lost".into(), shard.into()]));
        let bootstrap = self.plan.bootstrap.clone();
        self.start("bootstrap", "bootstrap", &bootstrap.host, bootstrap.port, config);
        Ok(())
    }

    fn start(
        &mut self,
        role: &'static str,
        name: &str,
        host: &str,
        port: u16,
        more: Vec<OsString>,
    ) {
        let data = self.data.child(name);
        let mut arguments: Vec<OsString> =
            vec![role.into(), "--data".into(), data.clone().into(), "--host".into(), host.into()];
        arguments.extend(more);
        let until = if role == "shard" { Wish::StopAll } else { Wish::StopBootstrap };
        let (name, program) = (name.to_owned(), self.program.clone());
        let spec = Spec { name: name.clone(), program, arguments, port, until };
        let child = self.members.len();
        tokio::spawn(supervise(child, spec, self.events.clone(), self.wish.subscribe()));
        self.members.push(Member { name, role, data, serving: None, has_served: false });
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Ready { child, pid, address } => {
                let member = &mut self.members[child];
                member.serving = Some((pid, address));
                if std::mem::replace(&mut member.has_served, true) {
                    print(&format!("restarted {} pid {pid} {address}", member.name));
                }
                self.learn_port(child, address.port())?;
                self.check_if_complete();
            }
            Event::Ended { child, how, failures, wait } => {
                let member = &mut self.members[child];
                member.serving = None;
                let name = &member.name;
                if failures <= 1 {
                    say!("{name} {how}; starting it again");
                } else {
                    say!("{name} {how}, {failures} times in a row; next start in {wait:?}");
                }
                self.become_incomplete();
            }
            Event::Stopped { .. } => {}
        }
        Ok(())
    }

    /// Keeps the port that a child has found.
    fn learn_port(&mut self, child: usize, port: u16) -> Result<(), Error> {
        if let Some(shard) = self.plan.shards.get_mut(child) {
            shard.port = port;
        } else if self.plan.bootstrap.port != port {
            self.plan.bootstrap.port = port;
            self.data.save(&self.plan)?;
        }
        Ok(())
    }

    fn become_incomplete(&mut self) {
        match std::mem::replace(&mut self.state, State::Incomplete) {
            State::Checking(check) => check.abort(),
            State::Ready => self.since = Instant::now(),
            State::Incomplete => {}
        }
    }

    /// Begins to ask bootstrap once all children serve.
    fn check_if_complete(&mut self) {
        let serving = self.members.iter().filter(|member| member.serving.is_some()).count();
        if serving <= self.plan.shards.len() || !matches!(self.state, State::Incomplete) {
            return;
        }
        let context = Context { bootstrap: self.plan.bootstrap.address(), ..self.context.clone() };
        self.state = State::Checking(tokio::spawn(whole(context)));
    }

    /// Waits until the cluster has been found to serve. `None` if finding out failed.
    async fn checked(&mut self) -> Option<RangeMap> {
        match &mut self.state {
            State::Checking(check) => check.await.ok(),
            State::Incomplete | State::Ready => std::future::pending().await,
        }
    }

    /// Says that the cluster serves, and the first time, of what it is made.
    fn announce(&mut self, map: Option<&RangeMap>) {
        let Some(map) = map else {
            self.state = State::Incomplete;
            return self.check_if_complete();
        };
        self.state = State::Ready;
        if !std::mem::replace(&mut self.introduced, true) {
            print(&self.table(map));
        }
        let address = self.plan.bootstrap.address();
        let shards = match self.plan.shards.len() {
            1 => "1 shard".to_owned(),
            count => format!("{count} shards"),
        };
        let seconds = self.since.elapsed().as_secs_f64();
        print(&format!("ready {address} ({shards}, {seconds:.1} s)"));
    }

    /// Who is who.
    fn table(&self, map: &RangeMap) -> String {
        let mut table = table(["NAME", "ROLE", "PID", "ADDRESS", "RANGES", "DATA"]);
        // Bootstrap first: it is whom clients ask.
        let (shards, bootstrap) = self.members.split_at(self.plan.shards.len());
        for member in bootstrap.iter().chain(shards) {
            let ranges = map.ranges_of(&member.name);
            let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
            let (pid, address) = match member.serving {
                Some((pid, address)) => (pid.to_string(), address.to_string()),
                None => Default::default(),
            };
            table.add_row([
                member.name.clone(),
                member.role.to_owned(),
                pid,
                address,
                if ranges.is_empty() { "-".to_owned() } else { ranges.join(" ") },
                member.data.display().to_string(),
            ]);
        }
        table.trim_fmt()
    }

    /// Stops the children, bootstrap first, and waits until they have. Whether all did cleanly.
    async fn stop(mut self, mut events: mpsc::Receiver<Event>, signals: &mut StopSignals) -> bool {
        self.become_incomplete();
        let Self { members, events: sender, wish, .. } = self;
        // What is left are the children's: the channel ends with the last of them.
        drop(sender);
        wish.send_replace(Wish::StopBootstrap);
        let mut clean = true;
        let since = Instant::now();
        let head_start = tokio::time::sleep(HEAD_START);
        tokio::pin!(head_start);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Stopped { child, unclean }) => {
                        if let Some(how) = unclean {
                            say!("{} {how}", members[child].name);
                            clean = false;
                        }
                        strengthen(&wish, Wish::StopAll);
                    }
                    Some(_) => {}
                    None => break clean,
                },
                () = &mut head_start, if *wish.borrow() < Wish::StopAll => {
                    strengthen(&wish, Wish::StopAll);
                }
                signal = signals.received() => if since.elapsed() > SAME_SIGNAL {
                    say!("killing what still runs on a second {signal}");
                    strengthen(&wish, Wish::Die);
                }
            }
        }
    }
}

/// Changes the wish, but never to a weaker one.
fn strengthen(wish: &watch::Sender<Wish>, to: Wish) {
    wish.send_if_modified(|wish| std::mem::replace(wish, to.max(*wish)) < to);
}

/// Waits until bootstrap says that all shards are ready; then gets the map.
async fn whole(context: Context) -> RangeMap {
    let mut client = None;
    let mut patience = Instant::now() + PATIENCE;
    loop {
        let why = match ask(&context, &mut client).await {
            Ok(map) => return map,
            Err(why) => why,
        };
        if Instant::now() >= patience {
            say!("still waiting for the cluster: {why}");
            patience = Instant::now() + PATIENCE;
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

/// The map if all shards are ready, else what is missing.
async fn ask(context: &Context, client: &mut Option<Client>) -> Result<RangeMap, String> {
    let client = match client {
        Some(client) => client,
        None => client.insert(context.connect().await.map_err(|error| error.to_string())?),
    };
    let status = client.status().await.map_err(|error| error.to_string())?;
    match status.into_iter().find(|shard| !shard.ready) {
        Some(shard) => {
            let why = shard.why.unwrap_or_else(|| "not ready".to_owned());
            Err(format!("{}: {why}", shard.name))
        }
        None => client.map().await.map_err(|error| error.to_string()),
    }
}

/// Prints to standard output. Supervision goes on when nobody reads it.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

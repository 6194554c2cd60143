//! Policies and settings of indexes: from the wire to the engine and back.

use sherd_protocol::{IndexSettings, Policy};

pub(super) fn policy(policy: Policy) -> sherd_engine::Policy {
    use sherd_engine::Policy as Engine;
    match policy {
        Policy::Reject => Engine::Reject,
        Policy::Lru => Engine::Lru,
        Policy::Lfu => Engine::Lfu,
        Policy::Fifo => Engine::Fifo,
        Policy::Random => Engine::Random,
        Policy::Ttl => Engine::Ttl,
    }
}

pub(super) fn policy_on_the_wire(policy: sherd_engine::Policy) -> Policy {
    use sherd_engine::Policy as Engine;
    match policy {
        Engine::Reject => Policy::Reject,
        Engine::Lru => Policy::Lru,
        Engine::Lfu => Policy::Lfu,
        Engine::Fifo => Policy::Fifo,
        Engine::Random => Policy::Random,
        Engine::Ttl => Policy::Ttl,
    }
}

pub(super) fn to_engine(settings: &IndexSettings) -> sherd_engine::IndexSettings {
    let IndexSettings { max_bytes, max_documents, policy: of_index, ttl } = *settings;
    let policy = of_index.map(policy);
    sherd_engine::IndexSettings { max_bytes, max_documents, policy, ttl }
}

pub(super) fn on_the_wire(settings: &sherd_engine::IndexSettings) -> IndexSettings {
    let sherd_engine::IndexSettings { max_bytes, max_documents, policy, ttl } = *settings;
    IndexSettings { max_bytes, max_documents, policy: policy.map(policy_on_the_wire), ttl }
}

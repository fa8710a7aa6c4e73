//! Any text is a node state or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity::node_state::{NodeState, State};

fuzz_target!(|text: &str| {
    if let Ok(state) = NodeState::parse(text) {
        assert!(
            state
                .marks()
                .all(|(node, mark)| state.is_down(node) == (mark.state == State::Down))
        );
    }
});

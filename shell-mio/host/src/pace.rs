//! Until when a loop waits, and that it never runs in circles.

use std::time::{Duration, Instant};

use entrouter_proto::TimerReason;

use crate::core::Core;

/// Rounds of actions in a turn: what is done may make the core ask for more.
pub const ROUNDS: usize = 4;

/// Connections written to in a round.
pub const WRITES: usize = 256;

/// Turns without waiting and without any work after which the loop waits nevertheless.
const IDLE_TURNS: u32 = 64;

/// While a UDP socket is full, the core's output is always due and hides its other deadlines: they
/// are looked at this often.
pub const BLOCKED_TICK: Duration = Duration::from_millis(1);

/// When the core is to be called next. `blocked` is whether a UDP socket is full.
pub fn deadline(core: &mut Core, blocked: bool, now: Instant) -> Option<Instant> {
    match core.poll_timeout() {
        Some((_, TimerReason::Output)) if blocked => Some(now + BLOCKED_TICK),
        due => due.map(|(at, _)| at),
    }
}

/// Ends the overdue: a deadline that is over and does not go away when it is handled would be a
/// fault of the core. It shall not cost a processor.
#[derive(Debug, Default)]
pub struct Pace {
    idle_turns: u32,
}

impl Pace {
    /// The loop is about to wait.
    pub fn waits(&mut self) {
        self.idle_turns = 0;
    }

    /// The turn is over and there is more to do: whether to do it at once, or only after
    /// [`BLOCKED_TICK`]. `worked` is whether the turn achieved anything.
    pub fn goes_on(&mut self, worked: bool) -> bool {
        if worked {
            self.idle_turns = 0;
        } else if self.idle_turns < IDLE_TURNS {
            self.idle_turns += 1;
        }
        self.idle_turns < IDLE_TURNS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_achieves_nothing_waits_now_and_then() {
        let mut pace = Pace::default();
        let at_once = (0..1000).filter(|_| pace.goes_on(false)).count();
        assert!(at_once < 100, "{at_once} turns without waiting");
        assert!(pace.goes_on(true));
        assert!((0..1000).all(|_| pace.goes_on(true)));
    }
}

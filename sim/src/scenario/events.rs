//! What befalls PoPs, links and origins, and when.

use std::time::Duration;

use toml::Table;

use super::error::Problem;
use super::links::{Change, Links, Part, part};
use super::raw::{RawDirection, RawEvent, read};
use super::values::At;
use super::workloads::pop;
use super::{ClockOffset, LinkId, Pop, PopId, Way};
use crate::link::LinkConfig;

/// Something that happens once.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Virtual time.
    pub at: Duration,
    /// What.
    pub what: EventKind,
}

/// What happens.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// A link is from now on as given. What is on it arrives as it would have.
    SetLink {
        /// Which link.
        link: LinkId,
        /// From its first end to the second; unchanged if absent.
        forth: Option<Box<LinkConfig>>,
        /// From its second end to the first; unchanged if absent.
        back: Option<Box<LinkConfig>>,
    },
    /// Everything on a link stands still until it is unclogged, and arrives then.
    Clog {
        /// Which link.
        link: LinkId,
        /// Which directions of it.
        way: Way,
        /// Whether it begins or ends.
        on: bool,
    },
    /// Everything put on a link is lost.
    Cut {
        /// Which link.
        link: LinkId,
        /// Which directions of it.
        way: Way,
        /// Whether it begins or ends.
        on: bool,
    },
    /// Everything that is sent from one group to another is lost. Replaces an earlier partition.
    Partition {
        /// Each PoP is in one of them.
        groups: Vec<Vec<PopId>>,
    },
    /// The partition ends.
    Heal,
    /// A PoP appears to its peers under another address; what is sent to the old one is lost.
    Rebind {
        /// Which PoP.
        pop: PopId,
        /// What changes.
        what: RebindKind,
    },
    /// A PoP ends without a word; its clients and origins see resets.
    Crash {
        /// Which PoP.
        pop: PopId,
    },
    /// A PoP starts anew; one that runs crashes first.
    Restart {
        /// Which PoP.
        pop: PopId,
        /// By how much its wall clock is stepped before.
        clock_step: ClockOffset,
        /// Whether what its former lives kept is lost.
        forgets: bool,
    },
    /// A PoP is asked to end in order.
    Drain {
        /// Which PoP.
        pop: PopId,
    },
    /// The origins at a PoP accept or refuse new connections from now on.
    Origin {
        /// Which PoP.
        pop: PopId,
        /// What they do.
        state: OriginState,
    },
    /// The origins at a PoP reset all their connections.
    OriginDies {
        /// Which PoP.
        pop: PopId,
    },
}

/// What of an address changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebindKind {
    /// The port.
    Port,
    /// The IP address and the port.
    Addr,
}

/// What origins do with new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginState {
    /// They accept them, whatever their workload says.
    Accepts,
    /// They refuse them.
    Refuses,
}

/// The most events, repetitions counted.
const MAX_EVENTS: usize = 10_000;

/// An event whose effect on links depends on those before it.
#[derive(Debug, Clone)]
enum Plan {
    Set(LinkId, Way, Part),
    Restore(LinkId, Way),
    Other(EventKind),
}

pub(super) fn events(
    pops: &[Pop],
    mut links: Links,
    tables: Vec<Table>,
    ends_at: Duration,
) -> Result<Vec<Event>, Problem> {
    let mut plans = Vec::new();
    for (n, table) in tables.into_iter().enumerate() {
        let key = format!("event.{n}");
        let mut raw: RawEvent = read(&key, table)?;
        let at = At(&key);
        let plan = plan(pops, &links, at, &mut raw)?;
        for time in times(at, &raw, ends_at)? {
            if plans.len() == MAX_EVENTS {
                let problem = format!("with it there are over {MAX_EVENTS} events: repeat less");
                return Err(at.problem("every_s", problem));
            }
            plans.push((time, n, plan.clone()));
        }
    }
    plans.sort_by_key(|(time, ..)| *time);
    let mut events = Vec::with_capacity(plans.len());
    for (time, n, plan) in plans {
        let key = format!("event.{n}");
        let set = |link: LinkId, (forth, back): Change| EventKind::SetLink {
            link,
            forth: forth.map(Box::new),
            back: back.map(Box::new),
        };
        let what = match plan {
            Plan::Set(link, way, part) => set(link, links.set(At(&key), link, way, part)?),
            Plan::Restore(link, way) => set(link, links.restore(At(&key), link, way)?),
            Plan::Other(what) => what,
        };
        events.push(Event { at: time, what });
    }
    Ok(events)
}

fn times(
    at: At<'_>,
    raw: &RawEvent,
    ends_at: Duration,
) -> Result<impl Iterator<Item = Duration>, Problem> {
    let first = at.seconds("at_s", raw.at_s, 0.0..=86_400.0)?;
    let every = raw.every_s.map(|s| at.seconds("every_s", s, 0.001..=86_400.0)).transpose()?;
    let until = match (raw.until_s, every) {
        (Some(_), None) => {
            return Err(at.problem("until_s", "it ends every_s: give both or neither"));
        }
        (Some(until), Some(_)) => at.seconds("until_s", until, 0.0..=86_400.0)?,
        (None, _) => ends_at,
    };
    let again = move |last: &Duration| Some(*last + every?).filter(|next| *next <= until);
    Ok(std::iter::successors(Some(first), again))
}

/// What a key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Set,
    Restore,
    Clog,
    Cut,
    Partition,
    Heal,
    RebindPort,
    RebindAddr,
    Crash,
    Restart,
    Drain,
    OriginRefuses,
    OriginAccepts,
    OriginDies,
}

/// The one thing that an event does, with its key.
fn act(at: At<'_>, raw: &RawEvent) -> Result<(&'static str, Act), Problem> {
    let known = [
        ("set", Act::Set, raw.set.is_some()),
        ("restore", Act::Restore, raw.restore.is_some()),
        ("clog", Act::Clog, raw.clog.is_some()),
        ("cut", Act::Cut, raw.cut.is_some()),
        ("partition", Act::Partition, raw.partition.is_some()),
        ("heal", Act::Heal, raw.heal.is_some()),
        ("rebind_port", Act::RebindPort, raw.rebind_port.is_some()),
        ("rebind_addr", Act::RebindAddr, raw.rebind_addr.is_some()),
        ("crash", Act::Crash, raw.crash.is_some()),
        ("restart", Act::Restart, raw.restart.is_some()),
        ("drain", Act::Drain, raw.drain.is_some()),
        ("origin_refuses", Act::OriginRefuses, raw.origin_refuses.is_some()),
        ("origin_accepts", Act::OriginAccepts, raw.origin_accepts.is_some()),
        ("origin_dies", Act::OriginDies, raw.origin_dies.is_some()),
    ];
    let mut given = known.iter().filter(|(.., given)| *given);
    match (given.next(), given.next()) {
        (Some((name, act, _)), None) => Ok((name, *act)),
        (Some((name, ..)), Some((other, ..))) => {
            let problem = format!("it does {name} and {other}: make an event of each");
            Err(Problem::new(at.0, problem))
        }
        (None, _) => {
            let names: Vec<&str> = known.iter().map(|(name, ..)| *name).collect();
            let problem = format!("nothing happens: give one of {}", names.join(", "));
            Err(Problem::new(at.0, problem))
        }
    }
}

fn plan(pops: &[Pop], links: &Links, at: At<'_>, raw: &mut RawEvent) -> Result<Plan, Problem> {
    let (name, act) = act(at, raw)?;
    if !matches!(act, Act::Set | Act::Restore | Act::Clog | Act::Cut) {
        for (key, given) in [("link", raw.link.is_some()), ("direction", raw.direction.is_some())] {
            if given {
                let problem = format!("{name} is about no link: leave it out");
                return Err(at.problem(key, problem));
            }
        }
    }
    if raw.clock_step_s.is_some() && act != Act::Restart {
        return Err(at.problem("clock_step_s", "only restart steps a clock: leave it out"));
    }
    if raw.forgets.is_some() && act != Act::Restart {
        return Err(at.problem("forgets", "only who restarts forgets: leave it out"));
    }
    let pop = |found: &Option<String>| {
        found.as_deref().map_or(Ok(PopId(0)), |found| pop(pops, at, name, found))
    };
    let other = match act {
        Act::Set => {
            let keys = part(&at.key("set"), raw.set.take().unwrap_or_default())?;
            let (link, way) = link(pops, links, at, raw)?;
            return Ok(Plan::Set(link, way, keys));
        }
        Act::Restore => {
            only_true(at, name, raw.restore)?;
            let (link, way) = link(pops, links, at, raw)?;
            return Ok(Plan::Restore(link, way));
        }
        Act::Clog => {
            let (link, way) = link(pops, links, at, raw)?;
            EventKind::Clog { link, way, on: raw.clog == Some(true) }
        }
        Act::Cut => {
            let (link, way) = link(pops, links, at, raw)?;
            EventKind::Cut { link, way, on: raw.cut == Some(true) }
        }
        Act::Partition => {
            let groups = raw.partition.as_deref().unwrap_or_default();
            EventKind::Partition { groups: partition(pops, at, groups)? }
        }
        Act::Heal => {
            only_true(at, name, raw.heal)?;
            EventKind::Heal
        }
        Act::RebindPort => {
            EventKind::Rebind { pop: pop(&raw.rebind_port)?, what: RebindKind::Port }
        }
        Act::RebindAddr => {
            EventKind::Rebind { pop: pop(&raw.rebind_addr)?, what: RebindKind::Addr }
        }
        Act::Crash => EventKind::Crash { pop: pop(&raw.crash)? },
        Act::Restart => {
            let step = raw.clock_step_s.unwrap_or_default();
            let clock_step = ClockOffset::read(at, "clock_step_s", step)?;
            let pop = pop(&raw.restart)?;
            let forgets = raw.forgets == Some(true);
            if forgets && pops[pop.0].connector.is_none() {
                let problem = "a PoP keeps nothing, a connector does: leave it out";
                return Err(at.problem("forgets", problem));
            }
            EventKind::Restart { pop, clock_step, forgets }
        }
        Act::Drain => EventKind::Drain { pop: pop(&raw.drain)? },
        Act::OriginRefuses => {
            EventKind::Origin { pop: pop(&raw.origin_refuses)?, state: OriginState::Refuses }
        }
        Act::OriginAccepts => {
            EventKind::Origin { pop: pop(&raw.origin_accepts)?, state: OriginState::Accepts }
        }
        Act::OriginDies => EventKind::OriginDies { pop: pop(&raw.origin_dies)? },
    };
    Ok(Plan::Other(other))
}

fn only_true(at: At<'_>, name: &str, found: Option<bool>) -> Result<(), Problem> {
    match found {
        Some(true) => Ok(()),
        _ => Err(at.problem(name, "write true, or leave the event out")),
    }
}

fn link(pops: &[Pop], links: &Links, at: At<'_>, raw: &RawEvent) -> Result<(LinkId, Way), Problem> {
    let (link, reversed) = match &raw.link {
        Some(name) => links.named(pops, name).map_err(|problem| at.problem("link", problem))?,
        None => {
            let problem = "there are several links: name one, as A-B";
            (links.sole().ok_or_else(|| at.problem("link", problem))?, false)
        }
    };
    let way = match raw.direction.unwrap_or(RawDirection::Both) {
        RawDirection::Both => Way::Both,
        RawDirection::Forth => Way::Forth,
        RawDirection::Back => Way::Back,
    };
    Ok((link, if reversed { way.reversed() } else { way }))
}

fn partition(pops: &[Pop], at: At<'_>, groups: &[Vec<String>]) -> Result<Vec<Vec<PopId>>, Problem> {
    let mut seen = vec![false; pops.len()];
    let mut result = Vec::new();
    for group in groups {
        let mut members = Vec::new();
        for name in group {
            let member = pop(pops, at, "partition", name)?;
            if std::mem::replace(&mut seen[member.0], true) {
                let problem = format!("{name} is named twice: put each PoP in one group");
                return Err(at.problem("partition", problem));
            }
            members.push(member);
        }
        if !members.is_empty() {
            result.push(members);
        }
    }
    if let Some(missing) = seen.iter().position(|seen| !seen) {
        let problem = format!("{} is missing: put each PoP in one group", pops[missing].name);
        return Err(at.problem("partition", problem));
    }
    if result.len() < 2 {
        return Err(at.problem("partition", "one group is no partition: make two or more"));
    }
    Ok(result)
}

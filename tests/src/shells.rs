//! Which shells a test runs against: the one list.
//!
//! A test is a function of the shells that its PoPs are to be, and [`on_every!`](crate::on_every) makes
//! a test of its own of each choice, so that they run in parallel and a failure names its shells:
//!
//! ```
//! # use entrouter_tests::{line::Plan, on_every, origin::Origin, shells::Shell};
//! fn a_question_is_answered(pair: [Shell; 2]) {
//!     let origin = Origin::echo();
//!     Plan::direct(origin.addr()).start(pair).assert_echoes();
//! }
//! on_every!(pair: a_question_is_answered);
//! ```

/// A shell by its name: its binary is `entrouter-<name>`.
pub type Shell = &'static str;

/// Makes tests of functions: `on_every!(shell: …)` of `fn([Shell; 1])`, `on_every!(pair: …)` of
/// `fn([Shell; 2])` with the entry's shell and the exit's, `on_every!(trio: …)` of `fn([Shell; 3])` with
/// the relay's between them; `on_every!(mixed pair: …)` leaves out pairs of the same. `on_every!(way: …)` is
/// of `fn(Way)`, whose clients come by TCP or by a connector. `rule` becomes `rule::mio`, or
/// `rule::mio_smol`, or `rule::mio_smol_by_smol`. Without tests it is an array of the cases' names.
#[macro_export]
macro_rules! on_every {
    (shell $(: $($test:ident),+ $(,)?)?) => { $crate::cases! { [$($($test)+)?] [mio smol] } };
    (pair $(: $($test:ident),+ $(,)?)?) => {
        $crate::cases! { [$($($test)+)?] [mio_mio smol_smol mio_smol smol_mio] }
    };
    (mixed pair $(: $($test:ident),+ $(,)?)?) => {
        $crate::cases! { [$($($test)+)?] [mio_smol smol_mio] }
    };
    // By TCP and by a connector.
    (way $(: $($test:ident),+ $(,)?)?) => {
        $crate::cases! {
            [$($($test)+)?]
            [mio_mio smol_smol mio_smol smol_mio smol_mio_by_mio mio_smol_by_smol]
        }
    };
    // Each shell in each place, once among its own kind and once among the others.
    (trio $(: $($test:ident),+ $(,)?)?) => {
        $crate::cases! {
            [$($($test)+)?] [mio_mio_mio smol_smol_smol mio_smol_mio smol_mio_smol]
        }
    };
}

/// Tests, and the cases of each.
#[doc(hidden)]
#[macro_export]
macro_rules! cases {
    ([] [$($case:ident)+]) => { [$(stringify!($case)),+] };
    ([$($test:ident)+] $cases:tt) => { $($crate::cases! { $test $cases })+ };
    // A function and a module may have the same name.
    ($test:ident [$($case:ident)+]) => {
        mod $test {
            $(#[test]
            fn $case() {
                super::$test($crate::shells::named(stringify!($case)));
            })+
        }
    };
}

/// The shells of a line: of its two PoPs, and of the connector by which its clients come, if they do.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// Where the clients are.
    pub entry: Shell,
    /// Where the origins are.
    pub exit: Shell,
    /// What takes the clients to the entry; without it they go there by TCP themselves.
    pub connector: Option<Shell>,
}

impl From<[Shell; 2]> for Way {
    fn from([entry, exit]: [Shell; 2]) -> Self {
        Self { entry, exit, connector: None }
    }
}

/// The shells of a case, as its name tells.
pub trait Case {
    /// Reads the name.
    fn of(case: &'static str) -> Self;
}

impl<const N: usize> Case for [Shell; N] {
    fn of(case: &'static str) -> Self {
        let shells: Vec<_> = case.split('_').collect();
        let wanted = |shells| panic!("{case}: {N} shells wanted, not {shells:?}");
        shells.try_into().unwrap_or_else(wanted)
    }
}

impl Case for Way {
    fn of(case: &'static str) -> Self {
        let (pops, connector) = match case.split_once("_by_") {
            Some((pops, connector)) => (pops, Some(connector)),
            None => (case, None),
        };
        Self { connector, ..<[Shell; 2]>::of(pops).into() }
    }
}

/// The shells of a case.
pub fn named<C: Case>(case: &'static str) -> C {
    C::of(case)
}

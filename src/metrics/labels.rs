//! The words by which counters are told apart: closed lists, so that nothing that a job says can make more of them.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// An enum of words, each with its text.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$of])* $variant,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($text),+].len()] = [$(Self::$variant),+];

            /// Its word, in metrics and in logs.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What was wrong with a mount.
    Cause {
        /// Its mount program has ended.
        ProgramEnded = "program_ended",
        /// It answers ENOTCONN, or its file system is shut down: a mount of a program that is gone.
        Dead = "dead",
        /// Nothing is mounted where it was.
        Unmounted = "unmounted",
        /// Something else is mounted over it.
        Covered = "covered",
        /// It is mounted elsewhere than it was made.
        Moved = "moved",
        /// Its file system does not answer.
        Hung = "hung",
        /// It is a mount of another file system, or of another directory, than its volume's.
        Stale = "stale",
        /// The guard lost its mark, so that nothing kept Nomad out.
        Unguarded = "unguarded",
        /// No server of it can be reached.
        Unreachable = "unreachable",
        /// Its mount program was killed for want of memory.
        OutOfMemory = "out_of_memory",
        /// It works in part only.
        Degraded = "degraded",
    }
}

words! {
    /// Where a mount was made good again.
    Place {
        /// On the host.
        Host = "host",
        /// Inside a running container.
        Container = "container",
    }
}

words! {
    /// The phases of a hook.
    Phase {
        /// From the call until its job's words are read: Nomad's news is waited for here.
        Read = "read",
        /// From there until every source that it needs is attached.
        Attach = "attach",
        /// From there until its bindings' record would survive a power cut.
        Record = "record",
        /// Beside that: until every binding is made and proved.
        Bind = "bind",
        /// From the call to the answer.
        Whole = "whole",
    }
}

words! {
    /// How a hook, or a phase of it, ended.
    HookResult {
        /// Well.
        Ready = "ready",
        /// With a refusal that no waiting would have mended.
        Refused = "refused",
        /// Its deadline came first.
        TimedOut = "timed_out",
    }
}

words! {
    /// What is done to a page of the ledger.
    LedgerOperation {
        /// The first page of an allocation, before its mounts are made.
        Intend = "intend",
        /// A page that has changed.
        Replace = "replace",
        /// A page that is not needed any more.
        Forget = "forget",
    }
}

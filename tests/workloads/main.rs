//! Real databases as Nomad's tasks on every kind of volume, killed with SIGKILL in the middle of their work.
//!
//! A pass is: the database's own integrity check is clean, and every write that it had acknowledged is there. What was
//! acknowledged is noted outside of the volume, by whoever was told so. The programs are Debian's own (`make tools`
//! unpacks them into the chroot of the tasks), run as `nobody`, and are started again by Nomad's restart policy, as they
//! would be where a database has crashed. In the end each job is stopped, and a new one finds the same.
//!
//! `make test` takes some seconds for each; `make workloads` runs them for minutes, and prints how fast each was on each
//! kind of volume. `docs/backends/databases.md` has what was found.

// A test's helper may panic like the test itself.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod kind;
mod mariadb;
mod postgres;
mod programs;
mod prometheus;
mod scene;
mod writer;

/// Ends a test as skipped where the machine lacks something that all of them need.
macro_rules! needs {
    () => {
        crate::support::require!(
            "root",
            "nomad",
            "dockerd",
            "docker",
            "weed",
            "fusermount3",
            "nsenter",
            "unshare",
            "curl",
            "e2fsck"
        )
    };
}

/// Each workload on each kind of volume.
macro_rules! workloads_on {
    ($($kind:ident with $fsx:ident),+ $(,)?) => { $(
        mod $kind {
            use crate::kind::$kind;
            use crate::programs::{self, Fsx};
            use crate::{mariadb, postgres, prometheus, writer};

            #[test]
            fn sqlite_with_a_write_ahead_log_keeps_every_acknowledged_commit() -> anyhow::Result<()> {
                needs!();
                writer::is_whole_after_kills(&$kind(), "wal")
            }

            #[test]
            fn sqlite_with_a_rollback_journal_keeps_every_acknowledged_commit() -> anyhow::Result<()> {
                needs!();
                writer::is_whole_after_kills(&$kind(), "rollback")
            }

            #[test]
            fn an_append_only_log_keeps_every_acknowledged_record() -> anyhow::Result<()> {
                needs!();
                writer::is_whole_after_kills(&$kind(), "log")
            }

            #[test]
            fn postgresql_keeps_every_acknowledged_commit() -> anyhow::Result<()> {
                needs!();
                postgres::is_whole_after_kills(&$kind())
            }

            #[test]
            fn mariadb_keeps_every_acknowledged_commit() -> anyhow::Result<()> {
                needs!();
                mariadb::is_whole_after_kills(&$kind())
            }

            #[test]
            fn prometheus_keeps_every_sample_through_compactions() -> anyhow::Result<()> {
                needs!();
                prometheus::is_whole_after_kills(&$kind())
            }

            #[test]
            fn random_writes_truncations_and_mappings_of_a_file() -> anyhow::Result<()> {
                needs!();
                programs::fsx_finds(&$kind(), Fsx::$fsx)
            }

            #[test]
            fn every_case_of_posix_ends_the_same_through_a_binding() -> anyhow::Result<()> {
                needs!();
                programs::posix_is_the_same_through_a_binding(&$kind())
            }
        }
    )+ };
}

workloads_on!(host with Holds, seaweedfs with IsMeasured, image with Holds);

/// A file system is tortured, without databases.
mod gluster {
    use crate::kind::gluster;
    use crate::programs::{self, Fsx};

    #[test]
    fn random_writes_truncations_and_mappings_of_a_file() -> anyhow::Result<()> {
        needs!();
        crate::support::require!("glusterd", "gluster", "glusterfs");
        programs::fsx_finds(&gluster(), Fsx::Holds)
    }

    #[test]
    fn every_case_of_posix_ends_the_same_through_a_binding() -> anyhow::Result<()> {
        needs!();
        crate::support::require!("glusterd", "gluster", "glusterfs");
        programs::posix_is_the_same_through_a_binding(&gluster())
    }
}

/// Those whose mount can be lost under them.
macro_rules! mounts_lost_on {
    ($($kind:ident),+ $(,)?) => {
        mod a_lost_mount { $(
            mod $kind {
                use crate::{kind::$kind, writer};

                #[test]
                fn leaves_sqlite_with_every_acknowledged_commit() -> anyhow::Result<()> {
                    needs!();
                    writer::is_whole_after_the_mount_was_lost(&$kind(), "wal")
                }

                #[test]
                fn leaves_an_append_only_log_with_every_acknowledged_record() -> anyhow::Result<()> {
                    needs!();
                    writer::is_whole_after_the_mount_was_lost(&$kind(), "log")
                }
            }
        )+ }
    };
}

mounts_lost_on!(seaweedfs, image);

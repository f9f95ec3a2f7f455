//! What holds for every backend, by its name: each kind of storage goes through the same deaths, hangs, absences and
//! ends. A new kind is a type in `kinds` and a line at the end of this file; it gets all of these tests for that.
//!
//! NFS goes through the same in the virtual machine's lane (`tests/system`): its client is the kernel's.

mod behaviours;
mod kinds;

/// Every behaviour for one kind, in a module of that name.
macro_rules! conform {
    ($name:ident, $kind:ty, $($behaviour:ident),+ $(,)?) => {
        mod $name {
            $(
                #[test]
                fn $behaviour() -> anyhow::Result<()> {
                    crate::support::require!("root", "nomad", "dockerd", "docker", "fusermount3", "weed");
                    super::behaviours::$behaviour::<$kind>()
                }
            )+
        }
    };
}

/// What holds for storage that nothing of its own stands behind.
macro_rules! conform_without_a_server {
    ($name:ident, $kind:ty) => {
        conform!(
            $name,
            $kind,
            agent_and_guard_are_killed_and_no_task_sees_it,
            mounts_are_back_after_a_reboot_before_nomad_is,
            nothing_is_unmounted_while_nomad_is_away,
            a_purge_and_a_collection_leave_the_data_and_nothing_else,
            a_volume_that_is_not_there_is_refused_with_nothing_half_done,
        );
    };
}

/// What holds besides for storage with a mount program and servers.
macro_rules! conform_with_a_server {
    ($name:ident, $kind:ty) => {
        conform!(
            $name,
            $kind,
            agent_and_guard_are_killed_and_no_task_sees_it,
            mounts_are_back_after_a_reboot_before_nomad_is,
            nothing_is_unmounted_while_nomad_is_away,
            a_purge_and_a_collection_leave_the_data_and_nothing_else,
            a_volume_that_is_not_there_is_refused_with_nothing_half_done,
            a_killed_mount_program_is_mended_on_the_host_and_in_containers,
            a_server_that_hangs_or_is_gone_holds_up_its_own_volumes_only_and_loses_nothing,
            a_mount_program_that_is_missing_is_named,
        );
    };
}

conform_without_a_server!(host, super::kinds::Host);
conform_without_a_server!(image_on_host, super::kinds::Image<super::kinds::Host>);
// Where the filer's servers go, an image's file system meets errors and is attached anew, which the plain volume is not.
conform!(
    image_on_seaweedfs,
    super::kinds::Image<super::kinds::Seaweedfs>,
    agent_and_guard_are_killed_and_no_task_sees_it,
    mounts_are_back_after_a_reboot_before_nomad_is,
    nothing_is_unmounted_while_nomad_is_away,
    a_purge_and_a_collection_leave_the_data_and_nothing_else,
    a_volume_that_is_not_there_is_refused_with_nothing_half_done,
    a_killed_mount_program_is_mended_on_the_host_and_in_containers,
    a_mount_program_that_is_missing_is_named,
);
conform!(
    image_on_gluster,
    super::kinds::Image<crate::support::Gluster>,
    mounts_are_back_after_a_reboot_before_nomad_is,
    a_purge_and_a_collection_leave_the_data_and_nothing_else,
    a_killed_mount_program_is_mended_on_the_host_and_in_containers,
);
conform_with_a_server!(seaweedfs, super::kinds::Seaweedfs);
conform_with_a_server!(gluster, crate::support::Gluster);

//! The agent's configuration: HCL files, Nomad's environment variables, and defaults.
//!
//! [`Config::parse`] and [`Config::read`] are pure; [`Config::load`] reads the files, and is the only I/O.
//!
//! * `blocks` knows the keys of each block, `kinds` those of each kind of backend, `cross` what must hold between blocks, `read` puts files together, `define` reads a volume's
//!   definition that is registered while the agent runs;
//! * [`model`] is what comes out, [`names`] and [`url`] the two grammars that jobs share with the configuration.

mod blocks;
mod cross;
mod define;
mod kinds;
mod load;
pub mod model;
pub mod names;
mod read;
pub mod url;

#[cfg(test)]
mod tests;

pub use define::LARGEST_DEFINITION;
pub use kinds::{
    BackendKind, Format, GLUSTER_PATHS, GLUSTERD_PORT, GLUSTERFS_PATHS, GlusterBackend, GlusterOptions, GlusterQuota,
    GlusterSsh, GlusterTls, HostBackend, ImageBackend, NfsBackend, SSH_PATHS, SeaweedfsBackend, WEED_PATHS,
    is_gluster_volume, nfs, seaweedfs, xlator_argument,
};
pub use load::{DEFAULT_FILE, DEFAULT_FOLDER, LoadError};
pub use model::{AccessMode, Backend, Config, Nomad, Policy, Token, Volume};
pub use names::{NAME_RULE, is_name};
pub use read::{Environment, Invalid, Loaded};
pub use url::{Scheme, StorageUrl, UrlPrefix};

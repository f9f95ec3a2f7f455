//! The agent's configuration: HCL files, Nomad's environment variables, and defaults.

pub mod model;
pub mod names;
pub mod url;

pub use model::{
    AccessMode, Backend, BackendKind, Config, HostBackend, Nomad, Policy, SeaweedfsBackend, Token, Volume, WEED_PATHS,
};
pub use names::{NAME_RULE, is_name};
pub use url::{Scheme, StorageUrl, UrlPrefix};

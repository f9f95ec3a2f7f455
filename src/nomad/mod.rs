//! Nomad's HTTP API as far as the agent needs it.
//!
//! * [`model`] is what the agent keeps of Nomad's objects.
//! * [`wire`] reads them from Nomad's JSON.
//! * [`settings`] says where Nomad is and how to speak to it; [`token`] is the secret sent along.
//! * [`client`] asks; [`error`] says what went wrong and what to do about it.
//! * [`watch`] keeps asking: it finds this machine's node and reports each change of its allocations.
//!
//! Nothing here changes anything in Nomad: every request is a GET.

pub mod client;
pub mod error;
pub mod model;
pub mod settings;
pub mod token;
pub mod watch;
pub mod wire;

mod body;
mod pace;

//! What gives way beneath running tasks: mount programs that stop, servers that answer no more, networks that are gone,
//! memory and caches that are full. Writers of every driver live through it.

mod half_made;
mod hang;
pub mod scene;
mod server;
mod starved;

//! GlusterFS as it is: its client, its bricks, its quota, and every way in which they can fail.

mod faults;
mod life;
mod sizes;
mod tls;
mod walkthrough;

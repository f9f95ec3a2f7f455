//! The C library's allocator, which by default keeps a heap for every thread and gives little back.

/// Has all threads share one heap (mallopt(3), `M_ARENA_MAX`): the agent's threads mostly wait, and a heap for each
/// would hold what one of them once needed. Call it before the first thread is started.
pub fn share_one_heap() {
    // SAFETY: mallopt takes two integers, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the heap's free pages back to the kernel (malloc_trim(3)). For after something large.
pub fn give_back() {
    // SAFETY: malloc_trim takes the allocator's own lock and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

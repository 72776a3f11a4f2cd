//! How the C library keeps the memory that this process has freed.
//!
//! glibc gives each thread a heap of its own, up to eight for each processor. What
//! one thread has freed another one does not get, so with thousands of databases,
//! each of which is worked on by many threads in turn, every heap grows to what
//! the largest needs and none is ever given back. Two are enough here: threads
//! rarely ask for memory at the same moment, since what is small comes from a
//! reserve of their own.
//!
//! Other C libraries have one heap for all.
#![cfg_attr(all(target_os = "linux", target_env = "gnu"), expect(unsafe_code, reason = "glibc has no other switch"))]

/// Heaps for all threads together.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;

/// Call before threads are started. Whoever has set `MALLOC_ARENA_MAX` in the environment
/// ([mallopt(3)](https://man7.org/linux/man-pages/man3/mallopt.3.html)) has decided for himself.
pub(super) fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: a call with two numbers, which the library checks; it holds its own lock meanwhile.
        let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, HEAPS) };
        if done == 0 {
            tracing::debug!("the C library does not let its heaps be counted: many databases need more memory");
        }
    }
}

//! Random bytes for ids.

/// Returns random bytes from the operating system.
///
/// # Panics
///
/// Panics if the system provides none. Then no id would be a secret, and the server must not run.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

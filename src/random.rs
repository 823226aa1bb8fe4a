//! Random bytes, for ids.

/// Random bytes from the operating system.
///
/// # Panics
///
/// If the system gives none. Then no id is a secret, and the server must not run.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

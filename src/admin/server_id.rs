//! The name of this server, as the page shows it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Returns the name of the machine.
pub(super) fn hostname() -> String {
    let files = ["/proc/sys/kernel/hostname", "/etc/hostname"];
    let file = files
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok());
    let variable = || {
        ["HOSTNAME", "COMPUTERNAME"]
            .iter()
            .find_map(|name| std::env::var(name).ok())
    };
    let name = file.or_else(variable).unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// Returns the default id of a server: the name of the machine and the id of the process. Further
/// servers of one process are numbered.
pub(super) fn server_id(hostname: &str) -> String {
    static SERVERS: AtomicUsize = AtomicUsize::new(1);
    let process = std::process::id();
    match SERVERS.fetch_add(1, Ordering::Relaxed) {
        1 => format!("{hostname}#{process}"),
        number => format!("{hostname}#{process}.{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_a_process_have_different_ids() {
        let (one, other) = (server_id("host"), server_id("host"));
        assert_ne!(one, other);
        let process = format!("host#{}", std::process::id());
        assert!(one.starts_with(&process) && other.starts_with(&process));
        assert!(!hostname().is_empty());
    }
}

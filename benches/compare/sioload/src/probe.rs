//! Figures of the server process: its CPU time and memory from the kernel, and its system calls if
//! it runs under `tools/syscount.c`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Returns the CPU time of a process with all its threads, also ended ones, in nanoseconds.
///
/// The CPU clock of the process has the exact sum of utime and stime, which `/proc/PID/stat` has in
/// ticks of 10 ms.
pub fn cpu_time(pid: libc::pid_t) -> io::Result<Duration> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: both calls write only to the local variable that they get.
    unsafe {
        let rc = libc::clock_getcpuclockid(pid, &mut clock);
        if rc != 0 {
            return Err(io::Error::from_raw_os_error(rc));
        }
        let mut ts = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        if libc::clock_gettime(clock, &mut ts) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Duration::new(ts.tv_sec as u64, ts.tv_nsec as u32))
    }
}

/// Returns the user time and the system time of a process in seconds, in steps of 10 ms.
pub fn user_sys(pid: libc::pid_t) -> io::Result<(f64, f64)> {
    user_sys_in(Path::new(&format!("/proc/{pid}/stat")))
}

/// Returns the CPU time of each thread by its id, in seconds and in steps of 10 ms.
pub fn threads(pid: libc::pid_t) -> io::Result<BTreeMap<OsString, f64>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        // The result has no threads that end meanwhile.
        if let Ok((user, sys)) = user_sys_in(&task.path().join("stat")) {
            threads.insert(task.file_name(), user + sys);
        }
    }
    Ok(threads)
}

fn user_sys_in(stat: &Path) -> io::Result<(f64, f64)> {
    let stat = fs::read_to_string(stat)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "unexpected stat of a process");
    // The command name may contain spaces. The numbers begin after the last ')'.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .ok_or_else(bad)?
        .1
        .split_whitespace()
        .collect();
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let field = |i: usize| -> io::Result<f64> {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .map(|t| t / ticks)
            .ok_or_else(bad)
    };
    Ok((field(11)?, field(12)?))
}

/// Returns the sum of the times for which the cores were busy, in steps of 10 ms.
pub fn busy(cores: &BTreeSet<usize>) -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks: u64 = cores.iter().map(|core| busy_ticks(&stat, *core)).sum();
    Ok(Duration::from_millis(ticks * 10))
}

fn busy_ticks(stat: &str, core: usize) -> u64 {
    let name = format!("cpu{core} ");
    let times: Vec<u64> = stat
        .lines()
        .find_map(|l| l.strip_prefix(&name))
        .unwrap_or_default()
        .split_whitespace()
        .map_while(|f| f.parse().ok())
        .collect();
    // user, nice, system, irq, softirq; not idle, iowait, steal, guest.
    [0, 1, 2, 5, 6].iter().filter_map(|i| times.get(*i)).sum()
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub rss_kib: u64,
    pub pss_kib: u64,
    pub private_kib: u64,
    /// The peak of the process's RSS.
    pub peak_kib: u64,
}

pub fn memory(pid: libc::pid_t) -> io::Result<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = |text: &str, name: &str| -> u64 {
        text.lines()
            .filter_map(|l| l.strip_prefix(name)?.strip_prefix(':'))
            .filter_map(|v| v.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
            .sum()
    };
    Ok(Memory {
        rss_kib: kib(&rollup, "Rss"),
        pss_kib: kib(&rollup, "Pss"),
        private_kib: kib(&rollup, "Private_Clean") + kib(&rollup, "Private_Dirty"),
        peak_kib: kib(&status, "VmHWM"),
    })
}

pub fn load_average() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|s| s.split(' ').next()?.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The shared file of counters that `tools/syscount.c` writes.
pub struct Counters {
    path: PathBuf,
}

/// The names of the counters in the order of the file, which is that of `tools/syscount.c`.
pub const COUNTER_NAMES: [&str; 18] = [
    "read",
    "write",
    "readv",
    "writev",
    "recv",
    "send",
    "recvmsg",
    "sendmsg",
    "epoll_wait",
    "epoll_ctl",
    "accept",
    "close",
    "futex",
    "other",
    "malloc",
    "free",
    "malloc_bytes",
    "free_bytes",
];

impl Counters {
    pub fn open(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub fn read(&self) -> io::Result<[u64; COUNTER_NAMES.len()]> {
        let mut bytes = [0; COUNTER_NAMES.len() * 8];
        fs::File::open(&self.path)?.read_exact(&mut bytes)?;
        let mut out = [0; COUNTER_NAMES.len()];
        for (value, chunk) in out.iter_mut().zip(bytes.chunks_exact(8)) {
            *value = u64::from_ne_bytes(chunk.try_into().expect("chunk of 8"));
        }
        Ok(out)
    }
}

pub fn counter_delta(
    before: &[u64; COUNTER_NAMES.len()],
    after: &[u64; COUNTER_NAMES.len()],
) -> BTreeMap<&'static str, u64> {
    COUNTER_NAMES
        .iter()
        .zip(before.iter().zip(after))
        .map(|(name, (b, a))| (*name, a.wrapping_sub(*b)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Pins the calling thread to the cores.
pub fn pin_to(cores: &[usize]) -> io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is valid and empty; the kernel only reads it.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for core in cores {
            libc::CPU_SET(*core, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Raises the soft limit of open files to the hard limit, and returns it.
pub fn raise_nofile() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls access only the local variable.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0 {
            return Err(io::Error::last_os_error());
        }
        limit.rlim_cur = limit.rlim_max;
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

//! A program that we did not start from our own code: other addresses, no knowledge of what it runs.

#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ckpt_trace::{Event, Injection, Memory, Running, SeizeOptions, Stop, Stopped, arch};

const TRAP: i32 = libc::SIGURG;

struct Program(Child);

impl Program {
    fn start(program: &str, argument: &str) -> Self {
        let mut command = Command::new(program);
        Self(command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap()
    }

    fn until_in(&self, call: i64) {
        let began = Instant::now();
        while !self.proc("syscall").starts_with(&format!("{call} ")) {
            assert!(began.elapsed() < Duration::from_secs(20), "{}", self.proc("syscall"));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A system call instruction in its vDSO.
    fn syscall_at(&self, memory: &Memory) -> u64 {
        let maps = self.proc("maps");
        let line = maps.lines().find(|line| line.ends_with("[vdso]")).unwrap();
        let start = u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap();
        let mut code = vec![0; 4096];
        memory.read(start, &mut code).unwrap();
        start + code.windows(2).position(|pair| pair == arch::SYSCALL_INSTRUCTION).unwrap() as u64
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stop(pid: i32) -> Stopped {
    let running = Running::seize(pid, SeizeOptions::default()).unwrap();
    running.interrupt().unwrap();
    match running.wait().unwrap() {
        Event::Stopped(thread, Stop::Interrupt) => thread,
        other => panic!("{other:?}"),
    }
}

/// Calls are made in the middle of its sleep, many times; it sleeps as long as it would have and ends as it would have.
#[test]
fn a_sleeping_program_does_not_notice() {
    let began = Instant::now();
    let mut program = Program::start("sleep", "1");
    program.until_in(libc::SYS_clock_nanosleep);
    let maps = program.proc("maps");
    for _ in 0..20 {
        let memory = Memory::open(program.pid()).unwrap();
        let syscall_at = program.syscall_at(&memory);
        let (thread, injection) =
            Injection::map(stop(program.pid()), &memory, 4 * ckpt_trace::PAGE, 0, syscall_at, TRAP).unwrap();
        let mut batch = injection.batch();
        let name = batch.space(390);
        batch.call("uname", libc::SYS_uname, &[name]);
        let pid = batch.call("getpid", libc::SYS_getpid, &[]);
        let (thread, outcome) = injection.run(thread, &memory, batch).unwrap();
        outcome.all().unwrap();
        assert!(outcome.bytes(name, 6) == b"Linux\0");
        assert_eq!(outcome.result(pid).unwrap(), u64::from(program.0.id()));
        injection.unmap(thread, &memory).unwrap().detach().unwrap();
        assert_eq!(program.proc("maps"), maps);
    }
    assert!(program.0.wait().unwrap().success());
    let took = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(2)).contains(&took), "{took:?}");
}

/// A process that is dead but not collected has no threads to seize.
#[test]
fn a_zombie_is_not_traced() {
    let program = Program::start("true", "");
    let began = Instant::now();
    while !program.proc("stat").contains(") Z ") {
        assert!(began.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Running::seize(program.pid(), SeizeOptions::default()).is_err());
}

//! The program on a terminal: bars that stay on their line, questions, and Ctrl-C at any of them, which ends with 130 in a
//! moment, says how to go on, and leaves the terminal as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::interrupts::stalling_registry;
use super::program::{mirror, process, unpack_samples};

const CTRL_C: &str = "\x03";

/// The program, with a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    screen: OwnedFd,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn start(home: &Path, columns: u16, arguments: &[&str]) -> Terminal {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let (mut shown, keys) = (File::from(pair.master.try_clone().unwrap()), File::from(pair.master));
        let program = process(home);
        // It makes the terminal the one that Ctrl-C on it interrupts.
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait"]).arg(program.get_program()).args(arguments);
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.current_dir(home).env("TERM", "xterm");
        let end = || pair.slave.try_clone().unwrap();
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let said = Arc::<Mutex<Vec<u8>>>::default();
        let heard = said.clone();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n @ 1..) = shown.read(&mut some) {
                heard.lock().unwrap().extend_from_slice(&some[..n]);
            }
        });
        Terminal { child, keys, screen: pair.slave, said }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until that was said.
    fn until(&self, text: &str) {
        let begun = Instant::now();
        while !self.text().contains(text) {
            assert!(begun.elapsed() < Duration::from_secs(20), "no {text:?} in {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn enter(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.screen).unwrap().local_flags.contains(LocalFlags::ECHO)
    }

    /// Waits for its end, which must come soon: its code.
    fn ends(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "still there: {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is drawn on one line at a time, without the commands to the terminal.
fn drawn(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\x1b' => {
                let _ = characters.by_ref().skip(1).find(|c| c.is_ascii_alphabetic());
            }
            c => plain.push(c),
        }
    }
    plain.split(['\r', '\n']).map(str::to_owned).collect()
}

#[test]
fn a_bar_keeps_to_its_line_and_an_interrupt_ends_it() {
    let (registry, asked) = stalling_registry();
    let image = format!("{registry}/a:1");
    for columns in [40, 80, 120] {
        let home = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::start(home.path(), columns, &["serialize", &image, "a.tar"]);
        asked.recv_timeout(Duration::from_secs(20)).unwrap();
        terminal.until("serializing");
        terminal.until(" %");
        terminal.enter(CTRL_C);
        assert_eq!(terminal.ends(), Some(130));
        terminal.until("goes on with what is in DEST.partial");
        let text = terminal.text();
        // The terminal shows the key behind the bar.
        let lines = drawn(&text).into_iter().map(|line| line.trim_end_matches("^C").to_owned());
        let bars: Vec<String> = lines.filter(|line| line.starts_with("serializing")).collect();
        assert!(bars.iter().all(|bar| bar.chars().count() <= usize::from(columns)), "{bars:?}");
        assert!(columns < 80 || bars.iter().any(|bar| bar.contains(" of 8.6 MiB")), "{bars:?}");
        // The bar is gone when the error is told.
        let last = drawn(&text).into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>();
        assert!(last.iter().any(|line| line == "error: interrupted"), "{last:?}");
        assert!(terminal.echoes());
    }
}

#[test]
fn an_interrupt_at_the_password_brings_the_echo_back_and_keeps_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(home.path(), 80, &["login", "reg.invalid"]);
    terminal.until("User name: ");
    assert!(terminal.echoes());
    terminal.enter("somebody\n");
    terminal.until("Password: ");
    let begun = Instant::now();
    while terminal.echoes() {
        assert!(begun.elapsed() < Duration::from_secs(10), "a password would be seen");
    }
    terminal.enter("half");
    terminal.enter(CTRL_C);
    assert_eq!(terminal.ends(), Some(130));
    terminal.until("nothing was kept");
    assert!(terminal.echoes());
    assert!(!terminal.text().contains("half"), "{}", terminal.text());
}

/// A home with an archive in volumes, the second of which is elsewhere, and where.
fn volume_away() -> (tempfile::TempDir, [std::path::PathBuf; 2]) {
    let home = unpack_samples("low");
    let arguments = ["serialize", "oci:low:edge/plain:v1", "a.tar", "--volume-size", "8KiB"];
    mirror(home.path()).args(arguments).assert().success();
    let (volume, away) = (home.path().join("a.tar.002"), home.path().join("away"));
    std::fs::rename(&volume, &away).unwrap();
    (home, [volume, away])
}

#[test]
fn an_interrupt_at_the_question_for_the_next_volume_ends_it() {
    let (home, [volume, away]) = volume_away();
    let arguments = ["deserialize", "a.tar.001", "oci:high:a"];
    let mut terminal = Terminal::start(home.path(), 80, &arguments);
    // The bar goes on below the question.
    terminal.until("press Enter (q and Enter to stop)\r\n");
    terminal.enter(CTRL_C);
    assert_eq!(terminal.ends(), Some(130));
    terminal.until("run the same command again");
    assert!(terminal.echoes());

    let mut terminal = Terminal::start(home.path(), 80, &arguments);
    terminal.until("press Enter");
    terminal.enter("q\n");
    assert_eq!(terminal.ends(), Some(1));
    terminal.until("stopped before volume 2");

    let mut terminal = Terminal::start(home.path(), 80, &arguments);
    terminal.until("press Enter");
    std::fs::rename(away, volume).unwrap();
    terminal.enter("\n");
    assert_eq!(terminal.ends(), Some(0));
    terminal.until("read a.tar.001 into oci:high:a");
}

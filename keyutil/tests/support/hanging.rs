//! A file whose file system does not answer.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// Makes `open` of a file block until it is dropped, or until the kernel breaks the lease after
/// 45 s (`/proc/sys/fs/lease-break-time`).
pub(crate) struct Hanging(Child);

impl Hanging {
    /// Takes a write lease (`F_SETLEASE` in fcntl(2)). A process that holds one is asked by signal
    /// to give it up before another can open the file; this one ignores the signal.
    pub(crate) fn new(path: &Path) -> Self {
        const HOLD: &str = r#"
            $SIG{IO} = "IGNORE";
            open(my $file, "<", $ARGV[0]) or die "open: $!";
            # F_SETLEASE, F_WRLCK
            fcntl($file, 1024, 1) or die "lease: $!";
            $| = 1;
            print "held\n";
            <STDIN>;
        "#;
        let mut holder = Command::new("perl")
            .args(["-e", HOLD])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("perl is installed");
        let output = holder.stdout.take().unwrap();
        let mut held = String::new();
        BufReader::new(output).read_line(&mut held).unwrap();
        assert_eq!(held, "held\n");
        Self(holder)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

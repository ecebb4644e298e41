//! The file of call records, or the standard output.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Target;

/// Where lines go.
pub(super) struct Output {
    /// `None`: the standard output.
    file: Option<File>,
    /// What was written last is no whole line: the next one begins behind a line feed.
    is_torn: bool,
}

impl Output {
    pub fn open(target: &Target) -> io::Result<Self> {
        Ok(match target {
            Target::Stdout => Self { file: None, is_torn: false },
            Target::File(path) => Self { file: Some(open(path)?), is_torn: is_torn(path) },
        })
    }

    /// Octets that were written, and what stopped it.
    pub fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        let result = self.write_counted(lines, &mut written);
        (written, result)
    }

    fn write_counted(&mut self, lines: &[u8], written: &mut usize) -> io::Result<()> {
        if self.is_torn {
            self.write_some(b"\n")?;
            self.is_torn = false;
        }
        while let Some(rest) = lines.get(*written..).filter(|rest| !rest.is_empty()) {
            match self.write_some(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *written += count;
                    self.is_torn = lines.get(..*written).is_some_and(|done| done.last() != Some(&b'\n'));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_some(&mut self, octets: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(octets),
            None => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(octets)?; // it has a buffer of its own and does not say what of it was written
                stdout.flush().map(|()| octets.len())
            }
        }
    }
}

/// Whether an earlier life left a line that does not end.
fn is_torn(path: &Path) -> bool {
    let last = || -> io::Result<u8> {
        if !std::fs::metadata(path)?.is_file() {
            return Ok(b'\n');
        }
        let (mut file, mut last) = (File::open(path)?, [b'\n']);
        if file.metadata()?.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(u8::from_be_bytes(last))
    };
    last().is_ok_and(|last| last != b'\n')
}

/// Numbers of people are in it: for the owner and the group.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_is_ended_before_the_next_one() {
        // A stream with little room: of what does not fit a part is written, as on a disk that becomes full.
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        let mut output = Output { file: Some(writer), is_torn: false };
        let line = [vec![b'x'; 40_000], vec![b'\n']].concat();
        let (written, result) = output.write(&line.repeat(10));
        assert!(result.is_err() && written > 0 && written < 400_010 && written % 40_001 != 0, "{written}");
        let mut read = vec![0; written];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(output.write(b"next\n").0, 5);
        drop(output);
        read.clear();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"\nnext\n");
    }

    #[test]
    fn a_file_that_was_left_in_the_middle_of_a_line_goes_on_with_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calls");
        for (before, after) in [("", "new\n"), ("old\n", "old\nnew\n"), ("ol", "ol\nnew\n")] {
            std::fs::write(&path, before).unwrap();
            let mut output = Output::open(&Target::File(path.clone())).unwrap();
            assert!(output.write(b"new\n").1.is_ok());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
        }
    }
}

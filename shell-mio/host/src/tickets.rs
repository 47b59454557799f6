//! Where a connector keeps its tickets between its lives: a file that only its owner may read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::{debug, warn};

/// Longer files are not ours.
const MAX_FILE: u64 = 4 << 20;

/// The tickets of one edge.
#[derive(Debug)]
pub struct TicketFile {
    path: PathBuf,
    /// A failure to write was told.
    complained: bool,
}

impl TicketFile {
    /// At this place; its folder is made when something is written.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, complained: false }
    }

    /// In the user's folder for such things (`$XDG_STATE_HOME`, or `~/.local/state`), if there is one.
    #[must_use]
    pub fn of_user(edge: &str) -> Option<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let state = absolute("XDG_STATE_HOME")
            .or_else(|| absolute("HOME").map(|home| home.join(".local").join("state")))?;
        let safe = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
        let name: String = edge.chars().map(safe).collect();
        Some(Self::new(state.join("entrouter").join(format!("{name}.tickets"))))
    }

    /// What was kept, if it is there and nobody else could have read or written it.
    #[must_use]
    pub fn read(&self) -> Option<Vec<u8>> {
        match self.try_read() {
            Ok(bytes) => bytes,
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    warn!("{}: {e}; beginning without tickets", self.path.display());
                }
                None
            }
        }
    }

    fn try_read(&self) -> io::Result<Option<Vec<u8>>> {
        let file = File::open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() || meta.len() > MAX_FILE {
            return Err(io::Error::other("this is no file of tickets"));
        }
        if meta.mode() & 0o077 != 0 {
            let what = "others may read or write it: its tickets are not used (chmod 600)";
            return Err(io::Error::other(what));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Keeps this instead of what was kept: all of it or, on a failure, nothing new.
    pub fn write(&mut self, bytes: &[u8]) {
        match self.try_write(bytes) {
            Ok(()) => debug!("tickets kept in {}", self.path.display()),
            Err(e) if !self.complained => {
                self.complained = true;
                warn!("{}: {e}; tickets are not kept", self.path.display());
            }
            Err(_) => {}
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(dir) = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let new = self.path.with_extension(format!("new-{}", std::process::id()));
        let written = write_whole(&new, bytes).and_then(|()| fs::rename(&new, &self.path));
        if written.is_err() {
            // What is half there is of no use.
            let _ = fs::remove_file(&new);
        }
        written
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Left behind by a process of the same number that died.
    if let Err(e) = fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(e);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("entrouter-tickets-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn what_is_kept_is_read_again_and_only_by_its_owner() {
        let dir = scratch("kept");
        let path = dir.join("deep").join("edge.tickets");
        let mut file = TicketFile::new(path.clone());
        assert_eq!(file.read(), None);
        file.write(b"one");
        file.write(b"two");
        assert_eq!(file.read().as_deref(), Some(&b"two"[..]));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir)), (0o600, 0o700));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing half done");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(file.read(), None, "the group could have read it");
        file.write(b"three");
        assert_eq!(mode(&path), 0o600);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_place_that_cannot_be_written_does_no_harm() {
        let file = scratch("a-file");
        fs::write(&file, b"").unwrap();
        let mut tickets = TicketFile::new(file.join("edge.tickets"));
        tickets.write(b"one");
        assert_eq!(tickets.read(), None);
        fs::remove_file(file).unwrap();
    }
}

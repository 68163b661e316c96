// SPDX-License-Identifier: GPL-2.0

//! The policy of a device: its handling of pages that its engines miss. Root sets it through files
//! in debugfs; Documentation/device.md describes the settings.
//!
//! # Examples
//!
//! ```no_run
//! use dmirror_client::Policy;
//!
//! if let Some(policy) = Policy::of("hmm_dmirror0")? {
//!     let before = policy.values()?;
//!     policy.choose("uvm")?;
//!     assert_eq!(policy.preset()?, "uvm");
//!     policy.put(&before)?;
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

const DEBUGFS: &str = "/sys/kernel/debug";

/// The settings; each is the name of a file.
pub const SETTINGS: [&str; 16] = [
    "window",
    "migrate",
    "granule",
    "prefetch",
    "access_counter",
    "timeslice_us",
    "atomic_timeslice_us",
    "atomics_migrate",
    "thrash_events",
    "thrash_window_us",
    "thrash_nap_us",
    "thrash_naps",
    "thrash_pin_ms",
    "fault_batch",
    "fault_buffer",
    "eviction",
];

/// The files of a device's folder that are not settings of any kind.
const NO_SETTINGS: [&str; 3] = ["policy", "stats", "blocks"];

/// The file of the limit, which is not a setting of the policy.
const LIMIT: &str = "limit_mib";

/// The values of all settings, in the order of [`SETTINGS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Values([u32; SETTINGS.len()]);

/// The policy of one device, which applies to all of its users.
#[derive(Clone, Debug)]
pub struct Policy {
    folder: PathBuf,
}

impl Policy {
    /// Returns the policy of device `name`, such as `hmm_dmirror0`; `None` if it has none, or this
    /// program may not see it.
    ///
    /// # Errors
    ///
    /// Any other error of looking for its file.
    pub fn of(name: &str) -> io::Result<Option<Self>> {
        Self::at(Path::new(DEBUGFS).join(name))
    }

    fn at(folder: PathBuf) -> io::Result<Option<Self>> {
        match fs::metadata(folder.join("policy")) {
            Ok(_) => Ok(Some(Self { folder })),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(None),
                _ => Err(error),
            },
        }
    }

    /// Returns the name of the preset that all settings match; `custom` if there is none.
    ///
    /// # Errors
    ///
    /// The error of reading the file; `InvalidData` if it marks none.
    pub fn preset(&self) -> io::Result<String> {
        let text = fs::read_to_string(self.folder.join("policy"))?;
        let chosen = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        chosen
            .map(str::to_owned)
            .ok_or_else(|| invalid("no preset is chosen"))
    }

    /// Returns the names of all presets, without `custom`, which cannot be chosen.
    ///
    /// # Errors
    ///
    /// The error of reading the file.
    pub fn presets(&self) -> io::Result<Vec<String>> {
        let text = fs::read_to_string(self.folder.join("policy"))?;
        let names = text
            .split_whitespace()
            .map(|word| word.trim_matches(['[', ']']));
        let names = names.filter(|name| *name != "custom");
        Ok(names.map(str::to_owned).collect())
    }

    /// Sets all settings to the values of a preset.
    ///
    /// # Errors
    ///
    /// The error of writing the file: `InvalidInput` for a preset that the module does not know.
    pub fn choose(&self, preset: &str) -> io::Result<()> {
        fs::write(self.folder.join("policy"), preset)
    }

    /// Returns the text of each file that the device has for a setting, by name, whether or not
    /// this library knows the setting.
    ///
    /// # Errors
    ///
    /// The error of reading a file.
    pub fn files(&self) -> io::Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if NO_SETTINGS.contains(&name.as_str()) || !entry.file_type()?.is_file() {
                continue;
            }
            let text = fs::read_to_string(entry.path())?;
            files.insert(name, text.trim_end().to_owned());
        }
        Ok(files)
    }

    /// Returns the values of all settings.
    ///
    /// # Errors
    ///
    /// The error of reading a file; `InvalidData` if one contains no number.
    pub fn values(&self) -> io::Result<Values> {
        let mut values = [0; SETTINGS.len()];
        for (value, setting) in values.iter_mut().zip(SETTINGS) {
            let text = fs::read_to_string(self.folder.join(setting))?;
            *value = (text.trim().parse()).map_err(|_| invalid(setting))?;
        }
        Ok(Values(values))
    }

    /// Returns the maximum number of MiB of the device's memory that may be in use; 0 for no limit.
    /// Presets do not change it, and it is not among the values.
    ///
    /// # Errors
    ///
    /// The error of reading the file; `InvalidData` if it contains no number.
    pub fn limit_mib(&self) -> io::Result<u32> {
        let text = fs::read_to_string(self.folder.join(LIMIT))?;
        text.trim().parse().map_err(|_| invalid(LIMIT))
    }

    /// Sets the maximum number of MiB that may be in use; 0 for no limit. It applies to the next
    /// pages that move to the device, and makes them evict others until there is room.
    ///
    /// # Errors
    ///
    /// The error of writing the file.
    pub fn set_limit_mib(&self, mib: u32) -> io::Result<()> {
        fs::write(self.folder.join(LIMIT), mib.to_string())
    }

    /// Sets all settings to these values, one after the other.
    ///
    /// # Errors
    ///
    /// The error of writing a file.
    pub fn put(&self, values: &Values) -> io::Result<()> {
        for (value, setting) in values.0.iter().zip(SETTINGS) {
            fs::write(self.folder.join(setting), value.to_string())?;
        }
        Ok(())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of files like that of a device.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, policy: &str) -> Self {
            let name = format!("dmirror-policy-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("policy"), policy).unwrap();
            for (value, setting) in SETTINGS.iter().enumerate() {
                fs::write(folder.join(setting), format!("{value}\n")).unwrap();
            }
            Self(folder)
        }

        fn policy(&self) -> Policy {
            Policy::at(self.0.clone()).unwrap().unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_preset_in_brackets_is_the_chosen_one() {
        let folder = Folder::new("preset", "test_hmm xe [kfd] uvm custom\n");
        assert_eq!(folder.policy().preset().unwrap(), "kfd");
        assert_eq!(
            folder.policy().presets().unwrap(),
            ["test_hmm", "xe", "kfd", "uvm"]
        );
        let folder = Folder::new("none", "test_hmm xe\n");
        let error = folder.policy().preset().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn settings_are_put_back() {
        let folder = Folder::new("values", "[custom]\n");
        let policy = folder.policy();
        let before = policy.values().unwrap();
        fs::write(folder.0.join("granule"), "65536").unwrap();
        assert_ne!(policy.values().unwrap(), before);
        policy.put(&before).unwrap();
        assert_eq!(policy.values().unwrap(), before);
        fs::write(folder.0.join("news"), "[new] old\n").unwrap();
        fs::write(folder.0.join("blocks"), "0 0\n").unwrap();
        let files = policy.files().unwrap();
        assert_eq!(files.len(), SETTINGS.len() + 1);
        assert_eq!(
            (files["granule"].as_str(), files["news"].as_str()),
            ("2", "[new] old")
        );
    }

    #[test]
    fn the_limit_is_a_file_of_its_own() {
        let folder = Folder::new("limit", "[custom]\n");
        let policy = folder.policy();
        let values = policy.values().unwrap();
        policy.set_limit_mib(48).unwrap();
        assert_eq!(policy.limit_mib().unwrap(), 48);
        assert_eq!(policy.values().unwrap(), values);
        fs::write(folder.0.join(LIMIT), "much\n").unwrap();
        let error = policy.limit_mib().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_device_without_the_file_has_none() {
        let nowhere = std::env::temp_dir().join("dmirror-no-such-device");
        assert!(Policy::at(nowhere).unwrap().is_none());
    }
}

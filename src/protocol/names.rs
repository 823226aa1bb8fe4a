//! The names of namespaces that a decoder reads.

use super::{DecodeError, NamespaceName};

/// The longest name of a namespace, in bytes.
pub(crate) const MAX_NAME: usize = 255;

/// The last namespace that a decoder has read, except `/`. The next packet is most likely for the
/// same one, and shares its name.
#[derive(Debug, Default)]
pub(super) struct NameCache(NamespaceName);

impl NameCache {
    /// Returns the namespace of this name.
    ///
    /// # Errors
    ///
    /// Fails if the name is longer than [`MAX_NAME`].
    #[inline]
    pub(super) fn get(&mut self, name: &str) -> Result<NamespaceName, DecodeError> {
        if name.len() > MAX_NAME {
            return Err(DecodeError::limit("namespace is too long"));
        }
        if name == "/" {
            return Ok(NamespaceName::MAIN);
        }
        if self.0 != *name {
            self.0 = name.into();
        }
        Ok(self.0.clone())
    }
}

//! Unpacks what an API server sends: identity or gzip, of one member or of many (Kubernetes 1.37 ends a member at each
//! flush of a WatchList). Bounded, and streaming: each chunk gives back all that it completes.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;

/// Unpacked bytes of one pushed chunk; a gzip bomb ends here.
const MAX_CHUNK_BYTES: usize = 64 * 1024 * 1024;

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum InflateError {
    /// The packed stream is damaged.
    #[error("the gzip stream is damaged: {0}")]
    Damaged(#[from] std::io::Error),
    /// It unpacks to more than is taken.
    #[error("the body unpacks to more than {0} bytes")]
    TooLarge(usize),
}

/// The unpacker of one body.
pub enum Inflate {
    /// Nothing to do.
    Identity,
    /// gzip, any number of members.
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

/// A buffer that refuses to grow beyond its limit.
pub struct Bounded {
    bytes: Vec<u8>,
    limit: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, chunk: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + chunk.len() > self.limit {
            return Err(std::io::Error::other(InflateError::TooLarge(self.limit)));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Inflate {
    /// By the value of `Content-Encoding`; `None` for one that was never offered.
    #[must_use]
    pub fn for_encoding(encoding: Option<&[u8]>) -> Option<Self> {
        match encoding {
            None | Some(b"identity" | b"") => Some(Self::Identity),
            Some(b"gzip") => {
                let bounded = Bounded { bytes: Vec::new(), limit: MAX_CHUNK_BYTES };
                Some(Self::Gzip(Box::new(MultiGzDecoder::new(bounded))))
            }
            Some(_) => None,
        }
    }

    /// Unpacks one chunk and returns all bytes that are complete with it.
    ///
    /// # Errors
    /// [`InflateError`].
    pub fn push(&mut self, chunk: &Bytes) -> Result<Bytes, InflateError> {
        match self {
            Self::Identity => Ok(chunk.clone()),
            Self::Gzip(decoder) => {
                decoder.write_all(chunk)?;
                decoder.flush()?;
                Ok(std::mem::take(&mut decoder.get_mut().bytes).into())
            }
        }
    }

    /// The bytes that are complete only with the end of the body.
    ///
    /// # Errors
    /// [`InflateError`]; a truncated stream is damaged.
    pub fn finish(&mut self) -> Result<Bytes, InflateError> {
        match self {
            Self::Identity => Ok(Bytes::new()),
            Self::Gzip(decoder) => {
                decoder.try_finish()?;
                Ok(std::mem::take(&mut decoder.get_mut().bytes).into())
            }
        }
    }

    /// Unpacks a whole body of at most `limit` bytes.
    ///
    /// # Errors
    /// [`InflateError`]; a truncated stream is damaged.
    pub fn whole(&mut self, body: Bytes, limit: usize) -> Result<Bytes, InflateError> {
        match self {
            Self::Identity => Ok(body),
            Self::Gzip(decoder) => {
                decoder.get_mut().limit = limit;
                decoder.write_all(&body)?;
                decoder.try_finish()?;
                Ok(std::mem::take(&mut decoder.get_mut().bytes).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    fn inflate() -> Inflate {
        Inflate::for_encoding(Some(b"gzip")).expect("known")
    }

    #[test]
    fn each_gzip_member_is_delivered_when_it_is_complete() {
        let mut inflate = inflate();
        for text in [&b"first event\n"[..], b"second", b"third and last"] {
            let plain = inflate.push(&Bytes::from(gzip(text))).expect("whole member");
            assert_eq!(&plain[..], text);
        }
    }

    #[test]
    fn members_cut_anywhere_come_out_whole() {
        let packed = [gzip(b"hello "), gzip(b"world")].concat();
        for cut in 0..packed.len() {
            let mut inflate = inflate();
            let mut plain = inflate.push(&Bytes::copy_from_slice(&packed[..cut])).expect("good").to_vec();
            plain.extend_from_slice(&inflate.push(&Bytes::copy_from_slice(&packed[cut..])).expect("good"));
            assert_eq!(plain, b"hello world", "cut at {cut}");
        }
    }

    #[test]
    fn a_truncated_body_is_an_error() {
        let packed = gzip(&[b'x'; 5000]);
        let cut = Bytes::copy_from_slice(&packed[..packed.len() - 9]);
        assert!(inflate().whole(cut.clone(), 1 << 20).is_err());
        for (body, is_whole) in [(cut, false), (packed.into(), true)] {
            let mut inflate = inflate();
            let plain = inflate.push(&body).expect("good so far").len();
            let end = inflate.finish();
            assert_eq!(end.is_ok(), is_whole);
            assert!(!is_whole || plain + end.map_or(0, |rest| rest.len()) == 5000);
        }
    }

    #[test]
    fn a_bomb_is_defused() {
        let packed = Bytes::from(gzip(&vec![0; 4 << 20]));
        assert!(inflate().whole(packed.clone(), 1 << 20).is_err());
        assert_eq!(inflate().whole(packed, 8 << 20).map(|plain| plain.len()).ok(), Some(4 << 20));
    }
}

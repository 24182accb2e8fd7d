//! Files of sealed frames: the redo journal and the boot snapshot.
//!
//! A frame is `u32 length, u8 flags, u64 sequence`, then that many sealed bytes. Sequences rise by one. The first
//! frame of a file is its head, whose sequence says where the file begins. The writes of a group lie in
//! consecutive frames, the last of which is marked; a group without its last frame never happened.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use ring::aead::LessSafeKey;

use super::{
    engine::Op,
    key::sync_parent,
    seal::{self, OVERHEAD},
};

const HEAD: u8 = 1;
const LAST: u8 = 2;
const PREFIX: usize = 4 + 1 + 8;
/// A frame is closed when it holds this much; also what an engine gets in one batch.
pub(super) const FRAME: usize = 96 << 10;
/// Longest frame that is read: one closed frame and the write that closed it.
const MAX_FRAME: usize = FRAME + (128 << 10);

/// A file of frames that is being written.
pub(super) struct FrameWriter {
    file: File,
    key: LessSafeKey,
    /// Bytes that count; what lies behind belongs to a failed group.
    length: u64,
    sequence: u64,
}

impl FrameWriter {
    /// Makes an empty file at `path` (replacing one as a whole) that begins after `sequence`.
    pub(super) fn create(path: &Path, key: LessSafeKey, sequence: u64) -> io::Result<Self> {
        let temporary = path.with_extension("new");
        let mut writer = Self::create_unnamed(&temporary, key, sequence)?;
        writer.publish(&temporary, path)?;
        Ok(writer)
    }

    /// Makes a file whose name is given later by `publish`.
    pub(super) fn create_unnamed(path: &Path, key: LessSafeKey, sequence: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut writer = Self { file, key, length: 0, sequence };
        let head = writer.frame(HEAD, sequence, &[])?;
        writer.file.write_all(&head)?;
        writer.length = head.len() as u64;
        Ok(writer)
    }

    /// Goes on with a file that `read` found good up to `length`.
    pub(super) fn resume(path: &Path, key: LessSafeKey, length: u64, sequence: u64) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()?;
        let mut writer = Self { file, key, length, sequence };
        writer.file.seek(SeekFrom::End(0))?;
        Ok(writer)
    }

    /// fsync, rename, fsync of the folder.
    pub(super) fn publish(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(from, to)?;
        sync_parent(to)
    }

    /// Bytes of whole groups.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Sequence of the last whole group.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Begins a group; nothing counts until its `finish`.
    pub(super) fn group(&mut self) -> GroupWriter<'_> {
        let sequence = self.sequence;
        let length = self.length;
        GroupWriter { writer: self, body: Vec::new(), sequence, length, broken: None }
    }

    /// Makes every finished group durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Takes back everything behind a length and sequence of before.
    pub(super) fn roll_back_to(&mut self, length: u64, sequence: u64) -> io::Result<()> {
        (self.length, self.sequence) = (length, sequence);
        self.roll_back()
    }

    /// Takes back a group that could not be written.
    fn roll_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        Ok(())
    }

    fn frame(&self, flags: u8, sequence: u64, body: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(body.len() + OVERHEAD).map_err(io::Error::other)?;
        let mut out = Vec::with_capacity(PREFIX + body.len() + OVERHEAD);
        out.extend_from_slice(&length.to_le_bytes());
        out.push(flags);
        out.extend_from_slice(&sequence.to_le_bytes());
        let sealed = seal::seal(&self.key, &out, body).map_err(io::Error::other)?;
        out.extend_from_slice(&sealed);
        Ok(out)
    }
}

/// One group on its way into a file. Errors are kept until `finish`, which takes everything back.
pub(super) struct GroupWriter<'a> {
    writer: &'a mut FrameWriter,
    body: Vec<u8>,
    sequence: u64,
    length: u64,
    broken: Option<io::Error>,
}

impl GroupWriter<'_> {
    /// Adds one write.
    pub(super) fn push(&mut self, op: &Op) {
        let (kind, key, value): (u8, &[u8], &[u8]) = match op {
            Op::Put(key, value) => (1, key, value),
            Op::Delete(key) => (0, key, &[]),
        };
        let (Ok(key_length), Ok(value_length)) = (u8::try_from(key.len()), u32::try_from(value.len())) else {
            self.broken = Some(io::Error::other("a key of more than 255 bytes"));
            return;
        };
        self.body.extend_from_slice(&[kind, key_length]);
        self.body.extend_from_slice(&value_length.to_le_bytes());
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        if self.body.len() >= FRAME {
            self.write(0);
        }
    }

    fn write(&mut self, flags: u8) {
        if self.broken.is_some() {
            self.body.clear();
            return;
        }
        self.sequence += 1;
        let written = self
            .writer
            .frame(flags, self.sequence, &self.body)
            .and_then(|frame| self.writer.file.write_all(&frame).map(|()| frame.len() as u64));
        self.body.clear();
        match written {
            Ok(length) => self.length += length,
            Err(error) => self.broken = Some(error),
        }
    }

    /// Takes everything back.
    pub(super) fn abandon(self) -> io::Result<()> {
        self.writer.roll_back()
    }

    /// Writes the last frame. On an error the file is as before.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write(LAST);
        if let Some(error) = self.broken.take() {
            self.writer.roll_back()?;
            return Err(error);
        }
        self.writer.length = self.length;
        self.writer.sequence = self.sequence;
        Ok(())
    }
}

/// What a file of frames holds.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    /// The sequence after which the file begins.
    pub(super) base: u64,
    /// The last frame of the last whole group (or `base`).
    pub(super) last: u64,
    /// Bytes up to there.
    pub(super) length: u64,
    /// The sequence of a good frame behind a bad one: not the torn end of a crash, but damage to what was durable.
    pub(super) damaged: Option<u64>,
}

/// Finds the whole groups of a file. `None` when there is no file with a good head.
pub(super) fn read(path: &Path, key: &LessSafeKey) -> Option<Frames> {
    let mut reader = FrameReader::open(path, key)?;
    let mut frames =
        Frames { base: reader.sequence, last: reader.sequence, length: reader.offset, damaged: None };
    while let Some((flags, _)) = reader.next() {
        if flags & LAST != 0 {
            frames.last = reader.sequence;
            frames.length = reader.offset;
        }
    }
    frames.damaged = reader.good_frame_behind();
    Some(frames)
}

/// Visits the writes of the whole groups after `after`, frame by frame; the flag says that a group is complete.
pub(super) fn replay<E>(
    path: &Path,
    key: &LessSafeKey,
    frames: &Frames,
    after: u64,
    mut visit: impl FnMut(u64, bool, Vec<Op>) -> Result<(), E>,
) -> Result<(), E> {
    let Some(mut reader) = FrameReader::open(path, key) else { return Ok(()) };
    while reader.sequence < frames.last {
        let Some((flags, body)) = reader.next() else { break };
        if reader.sequence > after {
            visit(reader.sequence, flags & LAST != 0, parse_ops(&body).unwrap_or_default())?;
        }
    }
    Ok(())
}

fn parse_ops(mut body: &[u8]) -> Option<Vec<Op>> {
    let mut ops = Vec::new();
    while !body.is_empty() {
        let (head, rest) = body.split_at_checked(6)?;
        let value_length = u32::from_le_bytes(head[2..].try_into().ok()?) as usize;
        let (key, rest) = rest.split_at_checked(usize::from(head[1]))?;
        let (value, rest) = rest.split_at_checked(value_length)?;
        ops.push(if head[0] == 1 { Op::Put(key.into(), value.to_vec()) } else { Op::Delete(key.into()) });
        body = rest;
    }
    Some(ops)
}

struct FrameReader<'a> {
    file: BufReader<File>,
    key: &'a LessSafeKey,
    offset: u64,
    sequence: u64,
}

impl<'a> FrameReader<'a> {
    fn open(path: &Path, key: &'a LessSafeKey) -> Option<Self> {
        let file = BufReader::with_capacity(64 << 10, File::open(path).ok()?);
        let mut reader = Self { file, key, offset: 0, sequence: 0 };
        let (flags, sequence, _, length) = reader.frame()??;
        if flags != HEAD {
            return None;
        }
        reader.sequence = sequence;
        reader.offset = length;
        Some(reader)
    }

    /// The next good frame in sequence.
    fn next(&mut self) -> Option<(u8, bytes::Bytes)> {
        let (flags, sequence, body, length) = self.frame()??;
        if flags & HEAD != 0 || sequence != self.sequence + 1 {
            return None;
        }
        self.sequence = sequence;
        self.offset += length;
        Some((flags, body))
    }

    /// Reads one frame at the file's position: `None` at the end, `Some(None)` when it does not open.
    #[allow(clippy::type_complexity, reason = "used twice, right above")]
    fn frame(&mut self) -> Option<Option<(u8, u64, bytes::Bytes, u64)>> {
        let mut prefix = [0; PREFIX];
        self.file.read_exact(&mut prefix).ok()?;
        let length = u32::from_le_bytes(prefix[..4].try_into().ok()?) as usize;
        if length > MAX_FRAME {
            return None;
        }
        let mut sealed = vec![0; length];
        self.file.read_exact(&mut sealed).ok()?;
        let sequence = u64::from_le_bytes(prefix[5..].try_into().ok()?);
        let total = (PREFIX + length) as u64;
        Some(seal::open(self.key, &prefix, sealed).map(|body| (prefix[4], sequence, body, total)))
    }

    /// After `next` gave up: the last later frame that opens, following the lengths.
    fn good_frame_behind(&mut self) -> Option<u64> {
        self.file.seek(SeekFrom::Start(self.offset)).ok()?;
        let mut good = None;
        while let Some(frame) = self.frame() {
            let behind = frame.map(|(_, sequence, _, _)| sequence).filter(|at| *at > self.sequence + 1);
            good = good.max(behind);
        }
        good
    }
}

#[cfg(test)]
mod tests {
    use super::{super::AtRestKey, *};

    fn key() -> LessSafeKey {
        AtRestKey::from_bytes(&[3; 32]).aead(&[b"frames"])
    }

    fn put(number: u32, size: usize) -> Op {
        Op::Put(number.to_be_bytes().into(), vec![7; size])
    }

    fn collect(path: &Path, after: u64) -> Vec<Op> {
        let mut out = Vec::new();
        let frames = read(path, &key()).unwrap();
        replay(path, &key(), &frames, after, |_, _, ops| {
            out.extend(ops);
            Ok::<(), ()>(())
        })
        .unwrap();
        out
    }

    #[test]
    fn a_group_without_its_end_never_happened_and_damage_is_told_from_a_torn_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut writer = FrameWriter::create(&path, key(), 40).unwrap();
        let mut ends = Vec::new();
        for number in 0..4 {
            let mut group = writer.group();
            group.push(&put(number, FRAME));
            group.push(&Op::Delete([9].into()));
            group.finish().unwrap();
            ends.push(writer.length());
        }
        assert_eq!(writer.sequence(), 48);
        let ends: Vec<usize> = ends.into_iter().map(|end| usize::try_from(end).unwrap()).collect();
        let whole = std::fs::read(&path).unwrap();
        let expected = |groups: u32| -> Vec<Op> {
            (0..groups).flat_map(|number| [put(number, FRAME), Op::Delete([9].into())]).collect()
        };
        assert_eq!(collect(&path, 40), expected(4));
        assert_eq!(collect(&path, 46), expected(4)[6..]);
        for (cut, groups) in [(whole.len() - 1, 3), (ends[2] + 5, 3), (ends[1] - 40, 1)] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(collect(&path, 0), expected(groups));
            assert_eq!(read(&path, &key()).unwrap().damaged, None);
        }
        let mut flipped = whole.clone();
        flipped[ends[1] + 100] ^= 4;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(collect(&path, 0), expected(2));
        assert_eq!(read(&path, &key()).unwrap().damaged, Some(48));
        flipped[3] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(read(&path, &key()), None);
    }

    #[test]
    fn a_resumed_journal_overwrites_a_torn_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut writer = FrameWriter::create(&path, key(), 0).unwrap();
        let mut group = writer.group();
        group.push(&put(1, 10));
        group.finish().unwrap();
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(&[5; 50]);
        std::fs::write(&path, &torn).unwrap();
        let frames = read(&path, &key()).unwrap();
        let mut writer = FrameWriter::resume(&path, key(), frames.length, frames.last).unwrap();
        let mut group = writer.group();
        group.push(&put(2, 10));
        group.finish().unwrap();
        assert_eq!(collect(&path, 0), [put(1, 10), put(2, 10)]);
    }
}

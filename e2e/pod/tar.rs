//! As much of tar(1) as `kubectl cp` asks of a container: `tar -xmf - -C FOLDER` and `tar cf - FILE`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The size of a header, and what each file is filled up to.
const BLOCK: usize = 512;

/// Does what the words of a tar command line say.
pub(crate) fn run(words: &[&str]) -> Result<(), String> {
    let mode = words.iter().map(|word| word.trim_start_matches('-')).find(|word| word.ends_with('f'));
    let folder = words.iter().position(|word| *word == "-C").and_then(|at| words.get(at + 1)).copied();
    match mode.and_then(|mode| mode.chars().next()) {
        Some('x') => extract(&mut io::stdin().lock(), Path::new(folder.unwrap_or("."))),
        Some('c') => {
            let file = words.last().filter(|word| words.len() > 2 && **word != "-");
            let file = file.ok_or("tar: name a file")?;
            archive(file, &mut io::stdout().lock())
        }
        _ => Err(format!("tar {}: only -xf - and -cf - FILE", words.join(" "))),
    }
    .map_err(|error: String| format!("tar: {error}"))
}

/// Unpacks files and folders below `folder`.
fn extract(input: &mut impl Read, folder: &Path) -> Result<(), String> {
    let mut header = [0; BLOCK];
    loop {
        input.read_exact(&mut header).map_err(text)?;
        if header.iter().all(|byte| *byte == 0) {
            // What may come behind the end is read, so that its writer is not told of a broken pipe.
            return io::copy(input, &mut io::sink()).map(drop).map_err(text);
        }
        let (path, size) = (folder.join(name(&header)?), number(&header[124..136])?);
        match header[156] {
            b'0' | 0 => {
                let mut file = File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let copied = io::copy(&mut input.take(size), &mut file).map_err(text)?;
                if copied != size {
                    return Err(format!(
                        "{}: the archive ends after {copied} of {size} bytes",
                        path.display()
                    ));
                }
                let fill = size.next_multiple_of(BLOCK as u64) - size;
                io::copy(&mut input.take(fill), &mut io::sink()).map_err(text)?;
            }
            b'5' => fs::create_dir_all(&path).map_err(text)?,
            kind => {
                return Err(format!("{}: no file and no folder but {:?}", path.display(), char::from(kind)));
            }
        }
    }
}

/// The path of an entry, which stays below wherever it is put.
fn name(header: &[u8; BLOCK]) -> Result<PathBuf, String> {
    let field = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8(bytes[..end].to_vec()).map_err(|_| "a name that is no text".to_owned())
    };
    let prefix = if header[257..262] == *b"ustar" { field(&header[345..500])? } else { String::new() };
    let path = Path::new(&prefix).join(field(&header[..100])?);
    let below: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let climbs = path.components().any(|part| part == Component::ParentDir);
    if climbs || below.as_os_str().is_empty() {
        Err(format!("{}: refused", path.display()))
    } else {
        Ok(below)
    }
}

fn number(field: &[u8]) -> Result<u64, String> {
    let digits = String::from_utf8_lossy(field);
    let digits = digits.trim_matches(|each| each == '\0' || each == ' ');
    u64::from_str_radix(digits, 8).map_err(|_| "a size that is no octal number".to_owned())
}

/// Packs the one file `path`.
fn archive(path: &str, output: &mut impl Write) -> Result<(), String> {
    let file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
    let size = file.metadata().map_err(text)?.len();
    let name = path.trim_start_matches('/').as_bytes();
    let mut header = [0; BLOCK];
    if name.len() > 100 {
        return Err(format!("{path}: the name is too long"));
    }
    header[..name.len()].copy_from_slice(name);
    for (at, field) in
        [(100, "0000644\0".to_owned()), (108, "0000000\0".to_owned()), (116, "0000000\0".to_owned())]
    {
        header[at..at + field.len()].copy_from_slice(field.as_bytes());
    }
    header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    output.write_all(&header).map_err(text)?;
    let copied = io::copy(&mut file.take(size), output).map_err(text)?;
    if copied != size {
        return Err(format!("{path}: changed while it was read"));
    }
    let fill = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
    output.write_all(&vec![0; fill + 2 * BLOCK]).and_then(|()| output.flush()).map_err(text)
}

fn text(error: io::Error) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_alike_and_stays_below_its_folder() {
        let folder = std::env::temp_dir().join(format!("eyot-pod-tar-{}", std::process::id()));
        let into = folder.join("into");
        fs::create_dir_all(&into).expect("a folder");
        let content: Vec<u8> = (0..100_003_u32).map(|at| (at % 251) as u8).collect();
        let source = folder.join("a");
        fs::write(&source, &content).expect("written");
        let (mut packed, path) = (Vec::new(), source.display().to_string());
        archive(&path, &mut packed).expect("packed");
        fs::create_dir_all(into.join(folder.strip_prefix("/").expect("absolute"))).expect("a folder");
        extract(&mut packed.as_slice(), &into).expect("unpacked");
        assert_eq!(fs::read(into.join(path.trim_start_matches('/'))).expect("there"), content);
        assert!(extract(&mut &packed[..5000], &into).is_err(), "a cut archive is told");
        packed[..6].copy_from_slice(b"../x\0\0");
        assert!(extract(&mut packed.as_slice(), &into).expect_err("climbs").contains("refused"));
        fs::remove_dir_all(&folder).expect("removed");
    }
}

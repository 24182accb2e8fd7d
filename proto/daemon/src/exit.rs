//! Exit codes that an operator and a unit file may rely on. The numbers are those of BSD `sysexits.h`.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

/// Why the process ended. Stable: a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Ended as asked: a clean drain, or a check that found nothing wrong.
    Ok = 0,
    /// The command line was wrong (`EX_USAGE`). Starting again does not help.
    Usage = 64,
    /// Something outside was not there in time: an address in use, a drain cut by its deadline
    /// (`EX_UNAVAILABLE`). Starting again may help.
    Unavailable = 69,
    /// Our own defect (`EX_SOFTWARE`).
    Software = 70,
    /// The machine refused: no file descriptors, no threads, a disk that fails (`EX_OSERR`, `EX_IOERR`).
    Os = 71,
    /// The configuration, or a file that it names, was refused (`EX_CONFIG`). Starting again does not help.
    Config = 78,
}

impl Exit {
    /// The number that the parent process sees.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// Runs a daemon from its command line, whose first word is the program's name, to its exit code. `start` gets what clap
/// understood and returns when the process is to end; `code` says what its error means to whoever runs us.
pub fn main_with<A: clap::Parser, E: Display>(
    arguments: impl IntoIterator<Item = OsString>,
    program: &str,
    start: impl FnOnce(&A) -> Result<(), E>,
    code: impl FnOnce(&E) -> Exit,
) -> ExitCode {
    let arguments = match A::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed terminal cannot be told anything.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            code(&error).into()
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl std::process::Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::Exit;

    #[test]
    fn the_numbers_are_those_that_the_unit_file_names() {
        let codes = [Exit::Ok, Exit::Usage, Exit::Unavailable, Exit::Software, Exit::Os, Exit::Config];
        assert_eq!(codes.map(Exit::code), [0, 64, 69, 70, 71, 78]);
    }
}

//! Progress on stderr: lines with time stamps, and below them on a terminal a block that is drawn anew.
//!
//! The block shows for every node how its requests fared so far, one mark for each thirtieth of the schedule.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::tally::Requests;

/// Marks in a row.
const MARKS: usize = 30;
/// Nodes in the block; a terminal of 24 lines has room for no more.
const MOST_NODES: usize = 8;

const GREEN: u8 = 32;
const RED: u8 = 31;
const YELLOW: u8 = 33;
const FAINT: u8 = 2;

/// What the block shows of a node: all requests so far, with a hub and without.
pub(super) struct NodeRow {
    pub(super) name: String,
    pub(super) cut: bool,
    pub(super) sides: [Requests; 2],
}

/// What one node's row has shown so far.
#[derive(Clone, Copy, Default)]
struct Strip {
    before: Requests,
    marks: [Requests; MARKS],
}

/// Where progress goes.
pub(super) struct Screen {
    start: Instant,
    length: Duration,
    live: bool,
    colour: bool,
    /// Lines of the block that stand on the terminal.
    drawn: usize,
    block: String,
    strips: Vec<[Strip; 2]>,
}

impl Screen {
    /// A screen for a schedule of `length`.
    pub(super) fn new(length: Duration) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let live =
            std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            start: Instant::now(),
            length,
            live,
            colour: live && !set("NO_COLOR"),
            drawn: 0,
            block: String::new(),
            strips: Vec::new(),
        }
    }

    /// The schedule begins now; how long the time before it was.
    pub(super) fn restart_clock(&mut self) -> Duration {
        std::mem::replace(&mut self.start, Instant::now()).elapsed()
    }

    /// One line that stays.
    pub(super) fn line(&mut self, text: &str) {
        let time = self.start.elapsed().as_secs_f64();
        self.draw(&format!("{time:>6.1} s  {text}"));
    }

    /// Whether somebody sees the block.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Draw the block anew: what goes on, what comes next, and every node.
    pub(super) fn show(&mut self, phase: &str, rows: &[NodeRow]) {
        if !self.live {
            return;
        }
        let part = self.start.elapsed().as_secs_f64() / self.length.as_secs_f64();
        // The schedule has at most 60 minutes, and the mark is within the row.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = ((part * MARKS as f64) as usize).min(MARKS - 1);
        let left = self.length.saturating_sub(self.start.elapsed()).as_secs_f64().ceil();
        let mut block = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(block, "\n  {phase:<63} {left:>4.0} s left\n");
        self.strips.resize(rows.len(), [Strip::default(); 2]);
        for (row, strips) in rows.iter().zip(&mut self.strips).take(MOST_NODES) {
            let (link, hue) =
                if row.cut { ("── ✂ ──", RED) } else { ("━━━━━━━", GREEN) };
            let link = paint(self.colour, hue, link);
            for (side, (strip, label)) in row.sides.iter().zip(strips.iter_mut().zip(["hub", "no hub"])) {
                strip.add(at, *side);
                let name = if label == "hub" { row.name.as_str() } else { "" };
                let link = if label == "hub" { link.as_str() } else { "       " };
                let marks = strip.text(at, self.colour);
                let (served, failed) = (side.served, side.failed);
                let _ =
                    writeln!(block, "  {name:<8}{link} {label:<6} {marks} {served:>6} ok {failed:>5} failed");
            }
        }
        if rows.len() > MOST_NODES {
            let _ = writeln!(block, "  ... and {} more nodes", rows.len() - MOST_NODES);
        }
        let legend = "                         ▪ all served  ▫ some  ✗ none  · nothing asked";
        let _ = writeln!(block, "{}", paint(self.colour, FAINT, legend));
        self.block = block;
        self.draw("");
    }

    /// Take the block away.
    pub(super) fn clear(&mut self) {
        self.block.clear();
        self.draw("");
    }

    /// Write a line, if there is one, and the block below it, over what stands there.
    fn draw(&mut self, line: &str) {
        let mut out = String::new();
        if self.live {
            // At one go, without wrapping where the terminal is narrow: the count of lines has to hold.
            out.push_str("\x1b[?2026h\x1b[?7l\r");
            if self.drawn > 0 {
                let _ = write!(out, "\x1b[{}A", self.drawn);
            }
            for line in std::iter::once(line).filter(|line| !line.is_empty()).chain(self.block.lines()) {
                let _ = write!(out, "{line}\x1b[K\r\n");
            }
            out.push_str("\x1b[J\x1b[?7h\x1b[?2026l");
            self.drawn = self.block.lines().count();
        } else if !line.is_empty() {
            let _ = writeln!(out, "{line}");
        }
        // Nobody may be reading any more; the demo goes on.
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
}

fn paint(colour: bool, hue: u8, text: &str) -> String {
    if colour { format!("\x1b[{hue}m{text}\x1b[0m") } else { text.to_owned() }
}

impl Strip {
    /// Add what came since the last time to a mark.
    fn add(&mut self, at: usize, now: Requests) {
        self.marks[at].served += now.served.saturating_sub(self.before.served);
        self.marks[at].failed += now.failed.saturating_sub(self.before.failed);
        self.before = now;
    }

    /// All was served, some of it, nothing, nothing asked, not yet there.
    fn text(&self, at: usize, colour: bool) -> String {
        let mark = |(place, mark): (usize, &Requests)| match (mark.served, mark.failed) {
            _ if place > at => " ".to_owned(),
            (0, 0) => paint(colour, FAINT, "·"),
            (_, 0) => paint(colour, GREEN, "▪"),
            (0, _) => paint(colour, RED, "✗"),
            _ => paint(colour, YELLOW, "▫"),
        };
        self.marks.iter().enumerate().map(mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_shows_how_each_part_of_the_time_went() {
        let mut strip = Strip::default();
        strip.add(0, Requests { served: 3, failed: 0 });
        strip.add(1, Requests { served: 4, failed: 1 });
        strip.add(1, Requests { served: 4, failed: 1 });
        strip.add(2, Requests { served: 4, failed: 2 });
        strip.add(3, Requests { served: 4, failed: 2 });
        assert_eq!(strip.text(3, false).trim_end(), "▪▫✗·");
        assert_eq!(strip.text(3, false).chars().count(), MARKS);
    }
}

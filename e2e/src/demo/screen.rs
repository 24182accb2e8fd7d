//! Progress on stderr: lines with time stamps, and below them on a terminal one block that is drawn anew.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// What the block shows of a node.
pub(super) struct NodeRow {
    pub(super) name: String,
    pub(super) cut: bool,
    pub(super) served_online: u64,
    pub(super) served_offline: u64,
    pub(super) events: u64,
    /// How many of the node's copies differ from the cloud at this moment.
    pub(super) behind: usize,
}

/// Where progress goes.
pub(super) struct Screen {
    start: Instant,
    live: bool,
    colour: bool,
    /// Lines of the block that stand on the terminal.
    drawn: usize,
    block: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        let live = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
        let colour = live && std::env::var_os("NO_COLOR").is_none();
        Self { start: Instant::now(), live, colour, drawn: 0, block: String::new() }
    }

    /// The schedule begins now; how long the time before it was.
    pub(super) fn restart_clock(&mut self) -> Duration {
        std::mem::replace(&mut self.start, Instant::now()).elapsed()
    }

    /// One line that stays.
    pub(super) fn line(&mut self, text: &str) {
        let mut out = self.erase();
        let time = self.start.elapsed();
        let _ = writeln!(out, "{:>6.1} s  {text}", time.as_secs_f64());
        self.draw(out);
    }

    /// Whether somebody sees the block.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Draw the block anew.
    pub(super) fn show(&mut self, rows: &[NodeRow]) {
        if !self.live {
            return;
        }
        let out = self.erase();
        let mut block = String::from("\n");
        for row in rows {
            let (link, hue) =
                if row.cut { ("cloud ── ✂ ── ", 33) } else { ("cloud ━━━━━━━ ", 32) };
            let link = if self.colour { format!("\x1b[{hue}m{link}\x1b[0m") } else { link.to_owned() };
            let copies = match row.behind {
                0 => "as the cloud".to_owned(),
                n => format!("{n} of 7 copies behind"),
            };
            let _ = writeln!(
                block,
                "  {link}{:<8} served {:>4} + {:>3} cut off  events {:>4}  {copies}",
                row.name, row.served_online, row.served_offline, row.events
            );
        }
        self.block = block;
        self.draw(out);
    }

    /// Take the block away.
    pub(super) fn clear(&mut self) {
        let out = self.erase();
        self.block.clear();
        self.draw(out);
    }

    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn draw(&mut self, mut out: String) {
        if self.live {
            out.push_str(&self.block);
            self.drawn = self.block.lines().count();
        }
        // Nobody may be reading any more; the demo goes on.
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
}

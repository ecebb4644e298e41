//! Writes the Prometheus text exposition format, version 0.0.4.

use std::fmt::{Display, Write as _};

use crate::proxy::meters::{BOUNDS, Histogram};

/// A page under way.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// The page.
    pub fn into_text(self) -> String {
        self.0
    }

    /// Begins a family: its lines follow at once.
    pub fn help(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A family of one line without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.help(name, kind, help);
        self.line(name, &[], value);
    }

    /// One line of the family.
    pub fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (position, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if position == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// The lines of one histogram of the family.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut below = 0;
        let bounds = BOUNDS.iter().map(|bound| (*bound as f64 / 1000.0).to_string()).chain(["+Inf".to_owned()]);
        for (count, bound) in histogram.buckets.iter().zip(bounds) {
            below += count;
            let mut all = labels.to_vec();
            all.push(("le", &bound));
            self.line(&format!("{name}_bucket"), &all, below);
        }
        self.line(&format!("{name}_sum"), labels, histogram.sum.as_secs_f64());
        self.line(&format!("{name}_count"), labels, below);
    }
}

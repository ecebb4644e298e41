//! A strict reader of the Prometheus text exposition format 0.0.4: what it does not understand, or what no scraper would like, is a panic.

use std::collections::{BTreeMap, BTreeSet};

type Labels = BTreeMap<String, String>;

/// Samples of one family.
#[derive(Debug)]
pub struct Family {
    pub kind: String,
    /// Name, labels, value.
    pub samples: Vec<(String, Labels, f64)>,
}

impl Family {
    /// The sum of the samples whose labels include these.
    pub fn sum(&self, labels: &[(&str, &str)]) -> f64 {
        let fits = |all: &Labels| labels.iter().all(|(label, value)| all.get(*label).is_some_and(|v| v == value));
        self.samples.iter().filter(|(_, all, _)| fits(all)).map(|(_, _, value)| value).sum()
    }
}

/// The families of a page.
pub fn read(page: &str) -> BTreeMap<String, Family> {
    assert!(page.ends_with('\n') && !page.contains('\r'), "lines end with LF");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let (mut helped, mut open): (Option<String>, Option<String>) = (None, None);
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').unwrap_or_else(|| panic!("no help text: {line}"));
            assert!(helped.is_none() && !text.is_empty(), "{line}");
            assert!(is_name(name, true) && !families.contains_key(name), "a second time, or no name: {line}");
            helped = Some(name.to_owned());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(helped.take().as_deref(), Some(name), "TYPE follows its HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "counters, and only they, end with _total: {line}");
            families.insert(name.to_owned(), Family { kind: kind.to_owned(), samples: Vec::new() });
            open = Some(name.to_owned());
        } else {
            let open = open.as_ref().unwrap_or_else(|| panic!("a sample of no family: {line}"));
            assert!(helped.is_none(), "a sample between HELP and TYPE: {line}");
            let sample = read_sample(line);
            let family = families.get_mut(open).unwrap();
            let allowed: &[&str] = if family.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(allowed.iter().any(|end| sample.0 == format!("{open}{end}")), "{line} stands in {open}");
            assert!(family.kind == "gauge" || sample.2 >= 0.0, "{line}");
            family.samples.push(sample);
        }
    }
    for (name, family) in &families {
        let mut seen = BTreeSet::new();
        assert!(family.samples.iter().all(|(name, labels, _)| seen.insert((name, labels))), "{name}: twice the same");
        if family.kind == "histogram" {
            check_histogram(name, family);
        }
    }
    families
}

fn is_name(text: &str, colon: bool) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || colon && c == ':';
    !text.is_empty() && text.chars().all(fits) && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn read_sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line}");
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, text) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label, false) && !label.starts_with("__"), "{line}");
            let (value, behind) = read_value(text, line);
            assert!(labels.insert(label.to_owned(), value).is_none(), "a label twice: {line}");
            match behind.strip_prefix(',') {
                Some(more) => rest = more,
                None => {
                    rest = behind.strip_prefix('}').unwrap_or_else(|| panic!("open labels: {line}"));
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    assert!(!value.contains(' '), "no timestamps here: {line}");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

/// A label value without its escapes, and what follows its closing quote.
fn read_value<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, c @ ('\\' | '"'))) => value.push(c),
                Some((_, 'n')) => value.push('\n'),
                _ => panic!("unknown escape: {line}"),
            },
            c => value.push(c),
        }
    }
    panic!("no closing quote: {line}")
}

fn check_histogram(name: &str, family: &Family) {
    let mut groups: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    let of = |end: &'static str| family.samples.iter().filter(move |(sample, _, _)| *sample == format!("{name}{end}"));
    for (_, labels, value) in of("_bucket") {
        let mut labels = labels.clone();
        let bound = labels.remove("le").unwrap_or_else(|| panic!("{name}: a bucket without le"));
        groups.entry(labels).or_default().push((bound.parse().unwrap(), *value));
    }
    assert!(!groups.is_empty(), "{name}: no buckets");
    for (labels, buckets) in groups {
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1), "{name}: {buckets:?}");
        let last = buckets.last().unwrap();
        assert!(last.0 == f64::INFINITY, "{name}: no +Inf");
        let only = |end: &'static str| {
            let found: Vec<f64> =
                of(end).filter(|(_, other, _)| *other == labels).map(|(_, _, value)| *value).collect();
            assert_eq!(found.len(), 1, "{name}{end} {labels:?}");
            found[0]
        };
        assert!((only("_count") - last.1).abs() < 0.5, "{name}: _count is the last bucket");
        only("_sum");
    }
}

mod tests {
    #[test]
    fn the_reader_is_strict() {
        let good = "# HELP a_total b\n# TYPE a_total counter\na_total{x=\"\\\"\\\\\\n,}\"} 1\n";
        assert_eq!(super::read(good)["a_total"].samples[0].1["x"], "\"\\\n,}");
        let bad = [
            "a 1\n",
            "# HELP a b\n# TYPE a counter\na 1\n",
            "# HELP a b\n# TYPE a gauge\na 1",
            "# HELP a b\n# TYPE a gauge\nb 1\n",
            "# HELP a b\n# TYPE a gauge\na x\n",
            "# HELP a b\n# TYPE a gauge\na{x=\"1} 2\n",
            "# HELP a b\n# TYPE a gauge\na{x=\"\\q\"} 2\n",
            "# HELP a b\n# TYPE a gauge\na 1\na 2\n",
            "# HELP a b\n# TYPE a gauge\n# HELP a b\n# TYPE a gauge\n",
            "# HELP h b\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
            "# HELP h b\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_sum 1\nh_count 2\n",
        ];
        for page in bad {
            assert!(std::panic::catch_unwind(|| super::read(page)).is_err(), "{page}");
        }
    }
}

//! `[[prefix_table]]`: a CSV file of number prefixes and where they go. The first line names the columns: `prefix`, one or more `trunk`
//! (in the order of trial), `strip` and `add` if wanted.

use std::collections::HashMap;
use std::path::Path;

use super::mistake::Fault;
use super::rows;
use crate::proxy::TrunkId;
use crate::proxy::route::prefix::{MAX_DIGITS, Prefix, PrefixRoute, PrefixTable};

/// Positions of the columns.
#[derive(Default)]
struct Columns {
    prefix: Option<usize>,
    trunks: Vec<usize>,
    strip: Option<usize>,
    add: Option<usize>,
}

/// Reads the text of a file. `trunk` knows which trunk a name is, or why it can not be one's destination.
///
/// # Errors
/// The first mistakes, each with its line.
pub(super) fn parse(
    path: &Path,
    name: String,
    text: &[u8],
    trunk: impl Fn(&str) -> Result<TrunkId, String>,
) -> Result<PrefixTable, Vec<Fault>> {
    let (mut prefixes, mut routes) = (Vec::new(), Vec::new());
    let mut known: HashMap<PrefixRoute, u32> = HashMap::new();
    rows::read(path, text, read_columns, |columns, record, line| {
        let (digits, said) = read_row(columns, record, &trunk)?;
        let place = *known.entry(said).or_insert_with_key(|said| {
            routes.push(said.clone());
            routes.len() as u32 - 1
        });
        prefixes.extend(Prefix::new(digits, place, line));
        Ok(())
    })?;
    PrefixTable::new(name, routes, prefixes).map_err(|twice| {
        let why = format!("the prefix stands on line {} already; keep one", twice.first);
        vec![rows::fault(path, twice.second.into(), why)]
    })
}

fn read_columns(header: &csv::StringRecord) -> Result<Columns, String> {
    let mut columns = Columns::default();
    for (position, name) in header.iter().enumerate() {
        let place = match name.trim_start_matches('\u{feff}') {
            "prefix" => &mut columns.prefix,
            "strip" => &mut columns.strip,
            "add" => &mut columns.add,
            "trunk" => {
                columns.trunks.push(position);
                continue;
            }
            other => return Err(format!("unknown column \"{other}\"; give prefix, trunk, strip, add")),
        };
        if place.replace(position).is_some() {
            return Err(format!("two columns \"{name}\"; only trunk may be there more than once"));
        }
    }
    if columns.prefix.is_none() || columns.trunks.is_empty() {
        return Err("the first line names the columns; give prefix,trunk".to_owned());
    }
    Ok(columns)
}

fn read_row<'r>(
    columns: &Columns,
    record: &'r csv::StringRecord,
    trunk: &impl Fn(&str) -> Result<TrunkId, String>,
) -> Result<(&'r str, PrefixRoute), String> {
    let cell = |column: Option<usize>| column.and_then(|column| record.get(column)).unwrap_or_default();
    let width = columns.trunks.len() + 1 + usize::from(columns.strip.is_some()) + usize::from(columns.add.is_some());
    if record.len() > width {
        return Err(format!("{} cells under {width} columns", record.len()));
    }
    let written = cell(columns.prefix);
    let digits = written.strip_prefix('+').unwrap_or(written);
    if Prefix::new(digits, 0, 0).is_none() {
        return Err(format!("\"{written}\" is no prefix; give 1 to {MAX_DIGITS} digits"));
    }
    let names = columns.trunks.iter().map(|column| cell(Some(*column))).filter(|name| !name.is_empty());
    let to = names.map(trunk).collect::<Result<Vec<_>, _>>()?;
    if to.is_empty() {
        return Err("no trunk; give at least one".to_owned());
    }
    let strip = match cell(columns.strip) {
        "" => 0,
        text => text.parse().ok().filter(|n| *n <= 32).ok_or(format!("strip \"{text}\" is no number from 0 to 32"))?,
    };
    let add = cell(columns.add);
    if !super::routes::is_dialled(add) {
        return Err(format!("add \"{add}\" can not be part of a number; give digits, +, * or #"));
    }
    Ok((digits, PrefixRoute { to, strip, add: add.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<PrefixTable, Vec<String>> {
        let trunk = |name: &str| match name {
            "a" => Ok(TrunkId(0)),
            "b" => Ok(TrunkId(1)),
            _ => Err(format!("there is no trunk \"{name}\"")),
        };
        parse(Path::new("p.csv"), "p".into(), text.as_bytes(), trunk)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rows_become_prefixes() {
        let table = read("prefix,trunk,trunk,strip,add\n49,a\n +4930 , a , b ,3, 0\r\n\n#31#,b,,,\n").unwrap();
        let found =
            |number| table.find(number).map(|r| (r.to.iter().map(|t| t.0).collect::<Vec<_>>(), r.strip, &*r.add));
        assert_eq!(found("4940"), Some((vec![0], 0, "")));
        assert_eq!(found("49301"), Some((vec![0, 1], 3, "0")));
        assert_eq!(found("#31#49"), Some((vec![1], 0, "")));
        assert_eq!((found("1"), table.len()), (None, 3));
        assert_eq!(read("add,trunk,prefix\n9,a,1\n").unwrap().find("12").map(|r| &*r.add), Some("9"));
    }

    #[test]
    fn mistakes_have_their_lines() {
        let mistakes = read("prefix,trunk,strip\n49,a\n4x,a\n50,c\n51\n52,a,-1\n53,a,1,2\n").unwrap_err();
        assert_eq!(
            mistakes,
            [
                "p.csv:3: \"4x\" is no prefix; give 1 to 16 digits",
                "p.csv:4: there is no trunk \"c\"",
                "p.csv:5: no trunk; give at least one",
                "p.csv:6: strip \"-1\" is no number from 0 to 32",
                "p.csv:7: 4 cells under 3 columns",
            ]
        );
        assert_eq!(
            read("prefix,trunk\n49,a\n1,b\n49,b\n").unwrap_err(),
            ["p.csv:4: the prefix stands on line 2 already; keep one"]
        );
        assert_eq!(read("49,a\n").unwrap_err(), ["p.csv:1: unknown column \"49\"; give prefix, trunk, strip, add"]);
        assert_eq!(read("").unwrap_err(), ["p.csv:1: the first line names the columns; give prefix,trunk"]);
        assert_eq!(read(&format!("prefix,trunk\n{}", "x,a\n".repeat(99))).unwrap_err().len(), rows::MAX_MISTAKES);
    }
}

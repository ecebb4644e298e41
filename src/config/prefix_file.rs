//! `[[prefix_table]]`: a CSV file of number prefixes and where they go. The first line names the columns: `prefix`, one or more `trunk`
//! (in the order of trial), `strip` and `add` if wanted.

use std::collections::HashMap;
use std::path::Path;

use super::mistake::Fault;
use crate::proxy::TrunkId;
use crate::proxy::route::prefix::{MAX_DIGITS, Prefix, PrefixRoute, PrefixTable};

/// So many mistakes of one file are told.
const MAX_MISTAKES: usize = 20;

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
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text);
    let row = |line, why| Fault::Row { path: path.to_owned(), line, why };
    let columns = reader.headers().map_err(|error| error.to_string()).and_then(read_columns);
    let columns = columns.map_err(|why| vec![row(1, why)])?;
    let (mut mistakes, mut prefixes, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    let mut known: HashMap<PrefixRoute, u32> = HashMap::new();
    let mut record = csv::StringRecord::new();
    while mistakes.len() < MAX_MISTAKES {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let line = error.position().map_or(reader.position().line(), csv::Position::line);
                mistakes.push(row(line, "not UTF-8 text; give digits and names".to_owned()));
                continue;
            }
        }
        let line = record.position().map_or(0, csv::Position::line);
        match read_row(&columns, &record, &trunk) {
            Ok((digits, said)) => {
                let place = *known.entry(said).or_insert_with_key(|said| {
                    routes.push(said.clone());
                    routes.len() as u32 - 1
                });
                prefixes.extend(Prefix::new(digits, place, u32::try_from(line).unwrap_or(u32::MAX)));
            }
            Err(why) => mistakes.push(row(line, why)),
        }
    }
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    PrefixTable::new(name, routes, prefixes).map_err(|twice| {
        vec![row(twice.second.into(), format!("the prefix stands on line {} already; keep one", twice.first))]
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
        assert_eq!(read(&format!("prefix,trunk\n{}", "x,a\n".repeat(99))).unwrap_err().len(), MAX_MISTAKES);
    }
}

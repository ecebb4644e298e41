//! Rows of the CSV files that tables come from: read to the end, with the first mistakes by their lines.

use std::path::Path;

use super::mistake::Fault;

/// So many mistakes of one file are told.
pub(super) const MAX_MISTAKES: usize = 20;

/// A mistake on a line of a file.
pub(super) fn fault(path: &Path, line: u64, why: String) -> Fault {
    Fault::Row { path: path.to_owned(), line, why }
}

/// Reads the columns from the first line, then gives every other line to `take` with its number.
///
/// # Errors
/// The first mistakes, each with its line.
pub(super) fn read<C>(
    path: &Path,
    text: &[u8],
    columns: impl FnOnce(&csv::StringRecord) -> Result<C, String>,
    mut take: impl FnMut(&C, &csv::StringRecord, u32) -> Result<(), String>,
) -> Result<(), Vec<Fault>> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text);
    let columns = reader.headers().map_err(|error| error.to_string()).and_then(columns);
    let columns = columns.map_err(|why| vec![fault(path, 1, why)])?;
    let (mut mistakes, mut record) = (Vec::new(), csv::StringRecord::new());
    while mistakes.len() < MAX_MISTAKES {
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let line = error.position().map_or(reader.position().line(), csv::Position::line);
                mistakes.push(fault(path, line, "not UTF-8 text; give numbers and names".to_owned()));
                continue;
            }
        }
        let line = record.position().map_or(0, csv::Position::line);
        if let Err(why) = take(&columns, &record, u32::try_from(line).unwrap_or(u32::MAX)) {
            mistakes.push(fault(path, line, why));
        }
    }
    if mistakes.is_empty() { Ok(()) } else { Err(mistakes) }
}

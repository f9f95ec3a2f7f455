//! Plain tables as Nomad prints them: a header, columns two spaces apart, no lines.

use comfy_table::{Cell, ContentArrangement, Table, presets};

use crate::cli::text::one_line;

/// The rows below their header, without the last line's end.
pub fn plain<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    // As wide as it needs: a row that is wrapped can be neither grepped nor cut.
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).force_no_tty();
    table.set_header(header.map(Cell::new));
    for row in rows {
        table.add_row(row.map(|cell| Cell::new(one_line(if cell.is_empty() { "-" } else { &cell }))));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `Key = value` lines with their signs aligned.
pub fn head(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    pairs.iter().map(|(key, value)| format!("{key:width$} = {}", one_line(value))).collect::<Vec<_>>().join("\n")
}

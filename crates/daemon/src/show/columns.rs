//! Cells in aligned columns, two spaces apart and fitted to a width.

use super::text::Span;

const GAP: usize = 2;

/// What one overlong text may cost all rows where no width is asked for.
const CELL_WIDTH_MAX: usize = 64;

/// A cell: spans that follow one another.
pub type Cell = Vec<Span>;

/// How `N` columns are laid out.
pub struct Layout<const N: usize> {
    /// The columns whose text ends, rather than begins, at the same place.
    pub right_aligned: &'static [usize],
    /// What is given up for want of width, in this order: a column, and how narrow it may get. A column of
    /// width 0 is left out.
    pub shrink: &'static [(usize, usize)],
    /// The column that gets back what leaving out another has freed.
    pub main: usize,
}

impl<const N: usize> Layout<N> {
    /// A line for each row, none of them wider than `width` columns unless all of `shrink` cannot achieve
    /// that. Cells that do not fit end in `…`.
    pub fn lines(&self, rows: &[[Cell; N]], width: Option<usize>) -> String {
        let widths = self.widths(rows, width);
        let lines: Vec<String> = rows.iter().map(|row| self.line(row, &widths)).collect();
        lines.join("\n")
    }

    fn widths(&self, rows: &[[Cell; N]], width: Option<usize>) -> [usize; N] {
        let natural: [usize; N] = std::array::from_fn(|column| {
            let widest = rows.iter().map(|row| cell_width(&row[column])).max();
            widest.unwrap_or(0).min(CELL_WIDTH_MAX)
        });
        let Some(width) = width else { return natural };
        let mut widths = natural;
        for &(column, narrowest) in self.shrink {
            let excess = total(&widths).saturating_sub(width);
            widths[column] = match (excess, narrowest) {
                (0, _) => break,
                (_, 0) => 0,
                _ => widths[column].saturating_sub(excess).max(narrowest.min(widths[column])),
            };
        }
        let spare = width.saturating_sub(total(&widths));
        widths[self.main] = natural[self.main].min(widths[self.main] + spare);
        widths
    }

    fn line(&self, row: &[Cell; N], widths: &[usize; N]) -> String {
        let mut line = String::new();
        // Held back until something follows, so that no line ends in spaces.
        let mut blank = 0;
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if width == 0 {
                continue;
            }
            let cell = cut(cell, width);
            let rest = width - cell_width(&cell);
            let before = if self.right_aligned.contains(&column) { rest } else { 0 };
            blank += before;
            for span in cell.iter().filter(|span| span.width() > 0) {
                line.push_str(&" ".repeat(std::mem::take(&mut blank)));
                line.push_str(&span.to_string());
            }
            blank += rest - before + GAP;
        }
        line
    }
}

fn total(widths: &[usize]) -> usize {
    let shown = widths.iter().filter(|width| **width > 0);
    shown.map(|width| width + GAP).sum::<usize>().saturating_sub(GAP)
}

fn cell_width(cell: &[Span]) -> usize {
    cell.iter().map(Span::width).sum()
}

fn cut(cell: &[Span], width: usize) -> Cell {
    let mut left = width;
    let mut spans = Cell::new();
    for span in cell {
        let is_whole = span.width() <= left;
        let span = span.cut(left);
        left -= span.width();
        spans.push(span);
        if !is_whole {
            break;
        }
    }
    // What was to stand behind the blanks may have been cut away.
    while let Some(last) = spans.pop() {
        let last = last.without_blanks_behind();
        if last.width() > 0 {
            spans.push(last);
            break;
        }
    }
    spans
}

//! What a terminal shows: its lines, and a picture of them for documents.

use std::fmt::Write;

use vt100::{Cell, Color};

use crate::pty::Terminal;

/// What a terminal of a size that stays shows: what comes is taken in as it comes.
pub struct Picture {
    parser: vt100::Parser,
    seen: usize,
    columns: u16,
}

impl Picture {
    /// An empty one.
    #[must_use]
    pub fn new(columns: u16, rows: u16) -> Self {
        Self { parser: vt100::Parser::new(rows, columns, 0), seen: 0, columns }
    }

    /// The terminal's lines now.
    pub fn lines(&mut self, terminal: &Terminal) -> Vec<String> {
        let new = terminal.screen().bytes_from(self.seen);
        self.seen += new.len();
        self.parser.process(&new);
        self.parser.screen().rows(0, self.columns).map(|line| line.trim_end().to_owned()).collect()
    }

    /// The terminal has another size from what comes next on.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        self.parser.screen_mut().set_size(rows, columns);
        self.columns = columns;
    }

    /// How many bytes of the terminal's output have been taken in.
    #[must_use]
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// Whether any cell of a line has its colours exchanged.
    #[must_use]
    pub fn is_inverse(&self, row: u16) -> bool {
        let screen = self.parser.screen();
        (0..self.columns).any(|column| screen.cell(row, column).is_some_and(Cell::inverse))
    }

    /// The lines as they were when they were last asked for, as an SVG document: a window with a title.
    #[must_use]
    pub fn svg(&self, title: &str) -> String {
        let screen = self.parser.screen();
        let (rows, columns) = screen.size();
        let (width, height) = (MARGIN * 2.0 + WIDTH * f32::from(columns), TOP + MARGIN + HEIGHT * f32::from(rows));
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             font-family=\"{FONTS}\" font-size=\"{SIZE}\" fill=\"{FOREGROUND}\" xml:space=\"preserve\">\n\
             <title>{title}</title>\n\
             <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"{BACKGROUND}\"/>\n\
             <path d=\"M0 28V8a8 8 0 0 1 8-8H{edge}a8 8 0 0 1 8 8V28z\" fill=\"{FRAME}\"/>\n\
             <g fill=\"{BUTTON}\"><circle cx=\"16\" cy=\"14\" r=\"5\"/><circle cx=\"34\" cy=\"14\" r=\"5\"/>\
             <circle cx=\"52\" cy=\"14\" r=\"5\"/></g>\n\
             <text x=\"{middle}\" y=\"18.5\" text-anchor=\"middle\" font-size=\"12\" fill=\"{DIM}\">{title}</text>\n",
            edge = width - 8.0,
            middle = width / 2.0,
            title = escaped(title),
        );
        for row in 0..rows {
            let cells: Vec<&Cell> = (0..columns).filter_map(|column| screen.cell(row, column)).collect();
            draw_row(&mut svg, &cells, TOP + HEIGHT * f32::from(row));
        }
        svg + "</svg>\n"
    }
}

const FONTS: &str = "ui-monospace, SFMono-Regular, Menlo, 'DejaVu Sans Mono', 'Liberation Mono', monospace";
const BACKGROUND: &str = "#16181d";
const FOREGROUND: &str = "#d7dae0";
const FRAME: &str = "#2a2d35";
const BUTTON: &str = "#5c616c";
const DIM: &str = "#9aa0ab";
/// The size of letters, of a cell, and of what is around all cells.
const SIZE: f32 = 14.0;
const WIDTH: f32 = 8.4;
const HEIGHT: f32 = 18.0;
const MARGIN: f32 = 12.0;
const TOP: f32 = 38.0;
/// The first sixteen colours.
const COLOURS: [u32; 16] = [
    0x2a_2d35, 0xf0_7178, 0x8f_ce7f, 0xe5_c07b, 0x6f_a8f5, 0xc7_92ea, 0x5f_c9d8, 0xc8_ccd4, 0x5c_616c, 0xff_8b92,
    0xa9_e39a, 0xff_d98f, 0x8f_bfff, 0xdd_b0ff, 0x82_e0ec, 0xff_ffff,
];

/// How a cell looks.
#[derive(Clone, PartialEq)]
struct Look {
    foreground: String,
    background: String,
    attributes: String,
}

impl Look {
    fn of(cell: &Cell) -> Self {
        let (mut foreground, mut background) = (colour(cell.fgcolor(), FOREGROUND), colour(cell.bgcolor(), BACKGROUND));
        if cell.inverse() {
            (foreground, background) = (background, foreground);
        }
        let attributes = [
            (cell.bold(), " font-weight=\"bold\""),
            (cell.italic(), " font-style=\"italic\""),
            (cell.underline(), " text-decoration=\"underline\""),
            (cell.dim(), " opacity=\"0.6\""),
        ];
        let attributes = attributes.iter().filter(|(has, _)| *has).map(|(_, text)| *text).collect();
        Self { foreground, background, attributes }
    }
}

fn draw_row(svg: &mut String, cells: &[&Cell], y: f32) {
    let mut column = 0_u16;
    for run in cells.chunk_by(|one, other| Look::of(one) == Look::of(other)) {
        let look = Look::of(run[0]);
        let width = u16::try_from(run.len()).unwrap_or(u16::MAX);
        let x = MARGIN + WIDTH * f32::from(column);
        if look.background != BACKGROUND {
            let (width, fill) = (WIDTH * f32::from(width), &look.background);
            // A little wider, so that no seam is seen between neighbours.
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{HEIGHT}\" fill=\"{fill}\"/>",
                width + 0.2
            );
        }
        draw_run(svg, run, &look, x, y);
        column += width;
    }
}

/// The letters of cells that look alike: each piece without wide gaps is put in its place, so that all columns stand straight
/// whatever the font. Lines and blocks are drawn, so that they meet.
fn draw_run(svg: &mut String, run: &[&Cell], look: &Look, x: f32, y: f32) {
    let (mut piece, mut begin, mut strokes) = (String::new(), x, String::new());
    let mut at = x;
    for (index, cell) in run.iter().enumerate() {
        let contents = if cell.has_contents() { cell.contents() } else { " " };
        let is_gap = |cell: &Cell| !cell.has_contents() || cell.contents() == " ";
        let drawn = contents.chars().next().and_then(|c| stroke(c, at, y));
        let is_wide_gap = is_gap(cell) && run.get(index + 1).is_none_or(|next| is_gap(next));
        if drawn.is_some() || is_wide_gap {
            draw_piece(svg, &std::mem::take(&mut piece), look, begin, y);
        } else if !(cell.is_wide_continuation() || piece.is_empty() && is_gap(cell)) {
            if piece.is_empty() {
                begin = at;
            }
            piece.push_str(contents);
        }
        strokes.extend(drawn);
        at += WIDTH;
    }
    draw_piece(svg, &piece, look, begin, y);
    if !strokes.is_empty() {
        let _ = writeln!(svg, "<path d=\"{strokes}\" fill=\"{}\"{}/>", look.foreground, look.attributes);
    }
}

fn draw_piece(svg: &mut String, piece: &str, look: &Look, x: f32, y: f32) {
    let piece = piece.trim_end();
    if !piece.is_empty() {
        let fill = if look.foreground == FOREGROUND { String::new() } else { format!(" fill=\"{}\"", look.foreground) };
        let (base, attributes) = (y + 13.5, &look.attributes);
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{base}\"{fill}{attributes}>{}</text>", escaped(piece));
    }
}

/// A character that is drawn as a path: lines from the middle of a cell to its sides, or a block from its left.
fn stroke(c: char, x: f32, y: f32) -> Option<String> {
    const THIN: f32 = 1.2;
    let (middle, centre) = (x + (WIDTH - THIN) / 2.0, y + (HEIGHT - THIN) / 2.0);
    let rect = |x: f32, y: f32, width: f32, height: f32| format!("M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
    // Up, right, down, left.
    let sides = match c {
        '\u{2500}' => [false, true, false, true],
        '\u{2502}' => [true, false, true, false],
        '\u{250c}' | '\u{256d}' => [false, true, true, false],
        '\u{2510}' | '\u{256e}' => [false, false, true, true],
        '\u{2514}' | '\u{2570}' => [true, true, false, false],
        '\u{2518}' | '\u{256f}' => [true, false, false, true],
        '\u{251c}' => [true, true, true, false],
        '\u{2524}' => [true, false, true, true],
        '\u{2588}'..='\u{258f}' => {
            let eighths = u16::try_from(0x2590 - u32::from(c)).unwrap_or(8);
            return Some(rect(x, y, WIDTH * f32::from(eighths) / 8.0 + 0.1, HEIGHT));
        }
        _ => return None,
    };
    let lines = [
        rect(middle, y, THIN, HEIGHT / 2.0 + THIN / 2.0),
        rect(middle, centre, WIDTH / 2.0 + THIN, THIN),
        rect(middle, centre, THIN, HEIGHT / 2.0 + THIN),
        rect(x, centre, WIDTH / 2.0 + THIN / 2.0, THIN),
    ];
    Some(sides.iter().zip(lines).filter(|(is_there, _)| **is_there).map(|(_, line)| line).collect())
}

/// A colour of xterm's palette of 256.
fn colour(colour: Color, otherwise: &str) -> String {
    let rgb = match colour {
        Color::Default => return otherwise.to_owned(),
        Color::Rgb(red, green, blue) => u32::from_be_bytes([0, red, green, blue]),
        Color::Idx(index @ 0..16) => COLOURS[usize::from(index)],
        Color::Idx(index @ 16..232) => {
            let level = |step: u8| if step == 0 { 0 } else { 55 + 40 * step };
            let index = index - 16;
            u32::from_be_bytes([0, level(index / 36), level(index / 6 % 6), level(index % 6)])
        }
        Color::Idx(index) => u32::from(8 + 10 * (index - 232)) * 0x01_0101,
    };
    format!("#{rgb:06x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Look, Picture, colour, stroke};

    #[test]
    fn colours_are_those_of_xterm() {
        assert_eq!(colour(vt100::Color::Idx(196), ""), "#ff0000");
        assert_eq!(colour(vt100::Color::Idx(236), ""), "#303030");
        assert_eq!(colour(vt100::Color::Rgb(1, 2, 3), ""), "#010203");
        assert_eq!(colour(vt100::Color::Default, "#fff"), "#fff");
    }

    #[test]
    fn a_screen_becomes_text_and_lines() {
        let mut picture = Picture::new(20, 2);
        picture.parser.process(b"a <b>  \x1b[1;7mc\x1b[m\r\n\xe2\x94\x80x");
        let svg = picture.svg("title & more");
        assert!(svg.contains(">a &lt;b&gt;</text>"), "{svg}");
        assert!(svg.contains(" font-weight=\"bold\">c</text>"), "{svg}");
        assert!(svg.contains("title &amp; more"), "{svg}");
        assert!(stroke('\u{2500}', 0.0, 0.0).is_some() && stroke('x', 0.0, 0.0).is_none());
        let inverse = picture.parser.screen().cell(0, 7).map(Look::of);
        assert!(inverse.is_some_and(|look| look.background == super::FOREGROUND));
        assert!(picture.is_inverse(0) && !picture.is_inverse(1));
    }
}

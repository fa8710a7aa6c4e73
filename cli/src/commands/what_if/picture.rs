//! The same as a picture.

use super::figures::{Figures, elide, ends};

// Lengths are in pixels.
const MARGIN: usize = 20;
// Baselines.
const TITLE: usize = 38;
const KEY: usize = 66;
const HEADING: usize = 108;
/// Where the rows begin.
const TOP: usize = 122;
/// A row has two bars.
const ROW: usize = 36;
const THICK: usize = 12;
/// The longest bar.
const BAR: usize = 380;
/// What is left beside texts.
const GAP: usize = 8;
/// The widest digit, and a letter of a name, which has a font of one width.
const LETTER: usize = 8;
/// The longest name that keeps its middle, in characters.
const LONGEST_NAME: usize = 32;

/// The bars of each strategy beside each other, those of a node in one row.
pub(crate) fn draw(figures: &Figures) -> String {
    let chars = |text: &String| text.chars().count();
    let lines = || figures.panels.iter().flat_map(|panel| &panel.lines);
    let names = lines().map(|line| chars(&line.label).min(LONGEST_NAME)).max();
    let labels = lines()
        .flat_map(|line| &line.bars)
        .map(|(_, label)| chars(label))
        .max();
    let rows = figures.panels.iter().map(|panel| panel.lines.len()).max();
    let left = MARGIN + 2 * GAP + LETTER * names.unwrap_or(0);
    let panel_width = BAR + GAP + LETTER * labels.unwrap_or(0) + MARGIN;
    let right = left + panel_width * figures.panels.len();
    let bottom = TOP + ROW * rows.unwrap_or(0);
    let longest = figures.longest(2);

    let mut picture = Picture::default();
    let title = elide(&figures.title, (right - MARGIN) / 12);
    picture.text((MARGIN, TITLE), "font-size=\"20\" font-weight=\"bold\"", &title);
    let mut x = MARGIN;
    for (_, colour, means) in figures.key {
        picture.rect((x, KEY - THICK + 1), (THICK, THICK), colour);
        picture.text((x + THICK + GAP, KEY), "font-size=\"13\"", means);
        x += THICK + GAP + means.len() * 7 + MARGIN;
    }
    for y in (TOP..bottom).step_by(2 * ROW) {
        picture.rect((MARGIN, y), (right - 2 * MARGIN, ROW), "#f4f4f4");
    }
    let lines = figures.panels.first().map_or(&[][..], |panel| &panel.lines);
    for (line, y) in lines.iter().zip((TOP..).step_by(ROW)) {
        let font = "font-size=\"13\" font-family=\"monospace\" text-anchor=\"end\"";
        picture.text(
            (left - GAP, y + ROW / 2 + 4),
            font,
            &elide(&line.label, LONGEST_NAME),
        );
    }
    for (panel, left) in figures.panels.iter().zip((left..).step_by(panel_width)) {
        picture.text(
            (left, HEADING),
            "font-size=\"14\" font-weight=\"bold\"",
            &panel.heading,
        );
        for (line, y) in panel.lines.iter().zip((TOP + 4..).step_by(ROW)) {
            for ((parts, label), y) in line.bars.iter().zip([y, y + THICK + 3]) {
                let mut x = left;
                for (end, (_, colour, _)) in ends(*parts, longest, BAR).into_iter().zip(figures.key) {
                    picture.rect((x, y), (left + end - x, THICK), colour);
                    x = left + end;
                }
                picture.text((x + GAP / 2, y + THICK - 2), "font-size=\"11\"", label);
            }
        }
    }
    picture.svg((right, bottom + MARGIN))
}

#[derive(Default)]
struct Picture {
    elements: String,
}

impl Picture {
    fn rect(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), fill: &str) {
        if width > 0 {
            self.elements += &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>\n"
            );
        }
    }

    fn text(&mut self, (x, y): (usize, usize), font: &str, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            // XML has no place for these two.
            .replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
        self.elements += &format!("<text x=\"{x}\" y=\"{y}\" {font}>{text}</text>\n");
    }

    fn svg(self, (width, height): (usize, usize)) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" fill=\"#202020\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.elements
        )
    }
}

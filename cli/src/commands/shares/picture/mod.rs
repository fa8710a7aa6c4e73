//! Pictures in SVG.

mod moves;
mod shares;

use std::io;

use plotters::coord::Shift;
use plotters::coord::types::{RangedCoordf64, RangedCoordu64};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::count::NodeCount;
use super::words::{elide, grouped};

pub(crate) use self::moves::moves;
pub(crate) use self::shares::shares;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordu64, RangedCoordf64>>;
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<io::Error>>;

// Lengths are in pixels.
const MARGIN: i32 = 18;
const PADDING: i32 = 8;
/// An axis, with its numbers and its name.
const AXIS: i32 = 46;
/// Where the title, what it is about, and the key are.
const HEADING: [i32; 3] = [30, 54, 84];
/// The longest name that keeps its middle, in characters.
const NAME: usize = 32;

// Distinct for the colour-blind, and in grey.
const STAY: RGBColor = RGBColor(0xb8, 0xd2, 0xe6);
const MUST: RGBColor = RGBColor(0xe6, 0x9f, 0x00);
const NEEDLESS: RGBColor = RGBColor(0x88, 0x1c, 0x54);
const INK: RGBColor = RGBColor(0x20, 0x20, 0x20);
const LINE: RGBColor = RGBColor(0xd0, 0xd0, 0xd0);
const STRIPE: RGBColor = RGBColor(0xf4, 0xf4, 0xf4);

/// A white picture of this size. Drawing in memory does not fail.
fn draw((width, height): (i32, i32), on: impl FnOnce(&Area<'_>) -> Drawn) -> io::Result<String> {
    let mut svg = String::new();
    let pixels = |length: i32| u32::try_from(length).unwrap_or_default();
    let root = SVGBackend::with_string(&mut svg, (pixels(width), pixels(height))).into_drawing_area();
    let drawn = root
        .fill(&WHITE)
        .and_then(|()| on(&root))
        .and_then(|()| root.present());
    drop(root);
    drawn.map_err(io::Error::other)?;
    Ok(svg)
}

fn heading(root: &Area<'_>, (right, _): (i32, i32), title: &str, about: &str) -> Drawn {
    let [title_line, about_line, _] = HEADING;
    let room = |pixels: i32| usize::try_from((right - 2 * MARGIN) * 10 / (pixels * 7)).unwrap_or_default();
    TITLE.write(root, &elide(title, room(TITLE.pixels), "…"), (MARGIN, title_line))?;
    NORMAL.write(
        root,
        &elide(about, room(NORMAL.pixels), "…"),
        (MARGIN, about_line),
    )
}

/// A colour and what it means; returns where the next may begin.
fn key(root: &Area<'_>, (x, y): (i32, i32), colour: RGBColor, means: &str) -> Drawn<i32> {
    root.draw(&Rectangle::new([(x, y - 7), (x + 14, y + 7)], colour.filled()))?;
    NORMAL.write(root, means, (x + 20, y))?;
    Ok(x + 20 + width(means, NORMAL.pixels) + 2 * PADDING)
}

/// Behind each second row.
fn stripes(root: &Area<'_>, rows: &[&NodeCount], (top, row): (i32, i32), (left, right): (i32, i32)) -> Drawn {
    let tops = (top..).step_by(usize::try_from(2 * row).unwrap_or(1));
    tops.zip(rows.iter().step_by(2))
        .try_for_each(|(y, _)| root.draw(&Rectangle::new([(left, y), (right, y + row)], STRIPE.filled())))
}

/// Coordinates: users to the right, up to the longest bar, and pixels downwards.
fn coordinates<'a>(
    root: &Area<'a>,
    left_top: (i32, i32),
    (width, height): (i32, i32),
    below: i32,
    longest: u64,
) -> Drawn<Chart<'a>> {
    let area = root.clone().shrink(left_top, (width, height + below));
    ChartBuilder::on(&area)
        .x_label_area_size(below)
        .build_cartesian_2d(0..longest.max(1), f64::from(height)..0.0)
}

/// The same with an axis below.
fn chart<'a>(
    root: &Area<'a>,
    left_top: (i32, i32),
    size: (i32, i32),
    longest: Option<u64>,
) -> Drawn<Chart<'a>> {
    // The ticks at the end need some room.
    let longest = longest.unwrap_or(0);
    let mut chart = coordinates(root, left_top, size, AXIS, longest + longest / 50)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(6)
        // None would be too few: plotters would look for ever larger steps.
        .x_max_light_lines(1)
        .light_line_style(LINE)
        .bold_line_style(LINE)
        .axis_style(INK)
        .x_label_formatter(&|users| grouped(*users))
        .label_style(SMALL.style())
        .x_desc("users")
        .axis_desc_style(NORMAL.style())
        .draw()?;
    Ok(chart)
}

fn bar(chart: &mut Chart<'_>, (from, to): (u64, u64), (top, bottom): (i32, i32), colour: RGBColor) -> Drawn {
    let bar = (from < to)
        .then(|| Rectangle::new([(from, f64::from(top)), (to, f64::from(bottom))], colour.filled()));
    chart.draw_series(bar)?;
    Ok(())
}

/// Those who stay, must move and move needlessly, one behind the other.
fn stack(chart: &mut Chart<'_>, parts: [u64; 3], y: (i32, i32)) -> Drawn {
    let mut users = 0;
    for (part, colour) in parts.into_iter().zip([STAY, MUST, NEEDLESS]) {
        bar(chart, (users, users + part), y, colour)?;
        users += part;
    }
    Ok(())
}

/// How a text looks.
#[derive(Clone, Copy)]
struct Text {
    pixels: i32,
    weight: FontStyle,
    anchor: HPos,
}

const TITLE: Text = Text {
    pixels: 20,
    weight: FontStyle::Bold,
    anchor: HPos::Left,
};
const BOLD: Text = Text { pixels: 14, ..TITLE };
const NORMAL: Text = Text {
    pixels: 13,
    weight: FontStyle::Normal,
    anchor: HPos::Left,
};
const SMALL: Text = Text { pixels: 11, ..NORMAL };

impl Text {
    /// It ends where it is put.
    fn right(self) -> Text {
        Text {
            anchor: HPos::Right,
            ..self
        }
    }

    fn style(self) -> TextStyle<'static> {
        // What the backend makes of a size.
        let size = f64::from(self.pixels) * 1.24;
        ("sans-serif", size, self.weight)
            .into_font()
            .color(&INK)
            .pos(Pos::new(self.anchor, VPos::Center))
    }

    fn write(self, area: &Area<'_>, text: &str, position: (i32, i32)) -> Drawn {
        // XML has no place for these two; the backend escapes the others.
        let text = text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
        area.draw_text(&text, &self.style(), position)
    }
}

/// The name of a node as it is shown.
fn name(row: &NodeCount) -> String {
    elide(row.name.as_deref().unwrap_or("no node"), NAME, "…")
}

fn widest(names: &[String]) -> i32 {
    names
        .iter()
        .map(|name| width(name, NORMAL.pixels))
        .max()
        .unwrap_or(0)
}

/// About how wide a text is, rather too much: who shows it chooses the font.
fn width(text: &str, pixels: i32) -> i32 {
    let tenths = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | '-' | ' ' => 4,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 10,
        'A'..='Z' => 8,
        _ if c.is_ascii() => 7,
        _ => 10,
    };
    text.chars().map(tenths).sum::<i32>() * pixels / 10 + 1
}

fn length(rows: &[&NodeCount]) -> i32 {
    i32::try_from(rows.len()).unwrap_or(0)
}

//! Text into a TOML table, without trusting it.

use toml::Table;

/// The longest file, in bytes.
pub(super) const MAX_TEXT: usize = 1 << 18;

/// Brackets within brackets, and dots of one key: more than the format has any use for. The TOML
/// crate bounds each of the two by itself, and their product can overflow a thread's stack.
const MAX_DEPTH: usize = 8;

/// The line, from 1, and what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Table, (usize, String)> {
    if text.len() > MAX_TEXT {
        return Err((1, format!("found {} bytes, give at most {MAX_TEXT}", text.len())));
    }
    let line_at = |offset: usize| {
        1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    };
    if let Some(at) = too_deep(text.as_bytes()) {
        let problem = format!("brackets or dotted keys are nested deeper than {MAX_DEPTH}");
        return Err((line_at(at), problem));
    }
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        (line, format!("this is not TOML: {}", error.message().replace(char::is_control, " ")))
    })
}

/// Where brackets or the dots of one key first exceed [`MAX_DEPTH`].
fn too_deep(text: &[u8]) -> Option<usize> {
    let (mut brackets, mut dots) = (0usize, 0usize);
    let mut i = 0;
    while let Some(&byte) = text.get(i) {
        match byte {
            b'#' => {
                i = line_end(text, i);
                continue;
            }
            b'"' | b'\'' => {
                i = string_end(text, i);
                continue;
            }
            b'[' | b'{' => (brackets, dots) = (brackets + 1, 0),
            b']' | b'}' => (brackets, dots) = (brackets.saturating_sub(1), 0),
            b'.' => dots += 1,
            b'=' | b',' | b'\n' => dots = 0,
            _ => {}
        }
        if brackets > MAX_DEPTH || dots > MAX_DEPTH {
            return Some(i);
        }
        i += 1;
    }
    None
}

fn line_end(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.iter().position(|byte| *byte == b'\n').map_or(text.len(), |n| from + n)
}

/// Past the end of the string that begins at `from`; one of a single line ends with that line.
fn string_end(text: &[u8], from: usize) -> usize {
    let at = |i: usize| text.get(i).copied();
    let Some(quote) = at(from) else { return from };
    let is_triple = |i: usize| (i..i + 3).all(|i| at(i) == Some(quote));
    let multi_line = is_triple(from);
    let mut i = if multi_line { from + 3 } else { from + 1 };
    while let Some(byte) = at(i) {
        if byte == b'\\' && quote == b'"' && (multi_line || at(i + 1) != Some(b'\n')) {
            i += 2;
        } else if multi_line && is_triple(i) {
            // Up to two quotes may stand before the closing three.
            let extra = (3..5).take_while(|n| at(i + n) == Some(quote)).count();
            return i + 3 + extra;
        } else if !multi_line && byte == quote {
            return i + 1;
        } else if !multi_line && byte == b'\n' {
            return i;
        } else {
            i += 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_too_deeply_is_told_with_its_line() {
        let brackets = format!("a = 1\nb = {}", "[".repeat(9));
        let dots = format!("a = 1\n{}c = 1", "b.".repeat(9));
        // As deep as both bounds together allow, which the crate's own would not stop.
        let both = format!("a = 1\nb = {}", "{ x.x.x.x.x.x.x.x.x.x = [".repeat(80));
        for text in [&brackets, &dots, &both] {
            let (line, problem) = parse(text).unwrap_err();
            assert_eq!(line, 2);
            assert!(problem.contains("nested deeper than 8"), "{problem}");
        }
    }

    #[test]
    fn neither_strings_nor_comments_count_as_nesting() {
        let nested = "[[[[[[[[[[ a.b.c.d.e.f.g.h.i.j.k";
        let text = format!(
            "# {nested}\na = \"{nested}\"\nb = '{nested}'\nc = \"\"\"\n{nested}\"\"\"\"\"\nd = 1"
        );
        assert_eq!(parse(&text).unwrap().len(), 4);
    }
}

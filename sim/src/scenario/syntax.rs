//! Text into a TOML table, without trusting it.

use entrouter_proto::config::{MAX_DEPTH, too_deep};
use toml::Table;

/// The longest file, in bytes.
pub(super) const MAX_TEXT: usize = 1 << 18;

/// The line, from 1, and what is wrong with it.
pub(super) fn parse(text: &str) -> Result<Table, (usize, String)> {
    if text.len() > MAX_TEXT {
        return Err((1, format!("found {} bytes, give at most {MAX_TEXT}", text.len())));
    }
    let line_at = |offset: usize| {
        1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    };
    if let Some(at) = too_deep(text) {
        let problem = format!("brackets or dotted keys are nested deeper than {MAX_DEPTH}");
        return Err((line_at(at), problem));
    }
    text.parse::<Table>().map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(span.start));
        (line, format!("this is not TOML: {}", error.message().replace(char::is_control, " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nested_too_deeply_is_told_with_its_line() {
        let brackets = format!("a = 1\nb = {}", "[".repeat(MAX_DEPTH + 1));
        let dots = format!("a = 1\n{}c = 1", "b.".repeat(MAX_DEPTH + 1));
        // As deep as both bounds together allow, which the crate's own would not stop.
        let both = format!("a = 1\nb = {}", "{ x.x.x.x.x.x.x.x.x.x = [".repeat(80));
        for text in [&brackets, &dots, &both] {
            let (line, problem) = parse(text).unwrap_err();
            assert_eq!(line, 2);
            assert!(problem.contains("nested deeper than 64"), "{problem}");
        }
    }

    #[test]
    fn neither_strings_nor_comments_count_as_nesting() {
        let nested = format!("{} {}", "[".repeat(MAX_DEPTH + 1), "a.".repeat(MAX_DEPTH + 1));
        let text = format!(
            "# {nested}\na = \"{nested}\"\nb = '{nested}'\nc = \"\"\"\n{nested}\"\"\"\"\"\nd = 1"
        );
        assert_eq!(parse(&text).unwrap().len(), 4);
    }
}

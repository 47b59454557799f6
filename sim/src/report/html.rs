//! Pieces of HTML. Everything that comes from a run goes through [`escape`].

/// Text as it may stand between tags and in quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // Neither XML nor HTML has a way to write these.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}

/// A node pair or a path, `a>b>c`, with arrows; escaped.
pub(super) fn arrows(path: &str) -> String {
    escape(&arrows_plain(path))
}

/// The same as text for a plot, which escapes for itself.
pub(super) fn arrows_plain(path: &str) -> String {
    path.replace(char::is_control, "\u{FFFD}").replace('>', " → ")
}

/// A table in a box of its own that scrolls sideways where the page is narrow. Cells are HTML.
#[derive(Debug, Default)]
pub(super) struct Table {
    head: String,
    body: String,
}

impl Table {
    /// A table with these column heads.
    pub(super) fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        let head = columns.into_iter().map(|c| format!("<th scope=\"col\">{c}</th>")).collect();
        Self { head, body: String::new() }
    }

    /// Adds a row; the first cell names it. A row without a name goes on with the one above.
    pub(super) fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        let class = if name.is_empty() { " class=\"more\"" } else { "" };
        self.body += &format!("<tr{class}><th scope=\"row\">{name}</th>");
        self.body.extend(cells.into_iter().map(|c| format!("<td>{c}</td>")));
        self.body += "</tr>\n";
    }

    pub(super) fn html(&self, class: &str) -> String {
        let Self { head, body } = self;
        format!(
            "<div class=\"scroll\"><table class=\"{class}\">\n<thead><tr>{head}</tr></thead>\n\
             <tbody>\n{body}</tbody>\n</table></div>\n"
        )
    }
}

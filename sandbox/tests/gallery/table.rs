//! The table in `docs/troubleshooting.md`.

use std::{fs, path::Path};

use super::case::Row;

const BEGIN: &str =
    "<!-- made by `SNAPSHOTS=overwrite cargo test -p sandbox --test it gallery` -->\n";
const END: &str = "<!-- end of what is made -->\n";

/// Compares it with the rows, or writes it anew.
pub fn compare(groups: &[&[Row]]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/troubleshooting.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (kept, after) = rest.split_once(END).unwrap();
    let made = table(groups);
    if std::env::var_os("SNAPSHOTS").is_some_and(|wish| wish == "overwrite") {
        fs::write(&path, [before, BEGIN, &made, END, after].concat()).unwrap();
    } else {
        snapbox::assert_data_eq!(kept.to_owned(), snapbox::Data::text(made));
    }
}

fn table(groups: &[&[Row]]) -> String {
    let mut table =
        "\n| message | exit code | cause | what to do |\n|---|---|---|---|\n".to_owned();
    let told = groups.iter().flat_map(|rows| rows.iter());
    for row in told.filter(|row| row.is_listed()) {
        let code = match row.exit_code {
            0 => "– (warning)".to_owned(),
            code => code.to_string(),
        };
        table += &format!(
            "| `{}` | {code} | {} | {} |\n",
            row.message, row.cause, row.advice
        );
    }
    table + "\n"
}

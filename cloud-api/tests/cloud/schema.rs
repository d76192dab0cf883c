//! Both migration trees build the same tables.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sqlx::Row;

use crate::databases::{postgres, sqlite};

type Tables = BTreeMap<String, BTreeSet<String>>;

#[test]
fn both_trees_have_the_same_versions() {
    let names = |tree: &str| -> BTreeSet<String> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(tree);
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(names("sqlite"), names("postgres"));
}

#[tokio::test]
async fn both_trees_build_the_same_columns_and_indices() {
    let (Some(lite), Some(pg)) = (sqlite().await, postgres().await) else { return };
    let lite = sqlite_tables(lite.url.trim_start_matches("sqlite:")).await;
    let pg = postgres_tables(&pg.url).await;
    assert!(lite.len() >= 8, "{lite:?}");
    assert_eq!(lite, pg);
}

async fn sqlite_tables(file: &str) -> Tables {
    let pool = ecosight_cloud::store::sqlite_reader(Path::new(file)).await.unwrap();
    let columns = sqlx::query(
        "SELECT t.name, c.name, c.type, c.\"notnull\", c.pk > 0, COALESCE(c.dflt_value, '') \
         FROM sqlite_master t, pragma_table_info(t.name) c \
         WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite%' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'",
    );
    let mut tables = Tables::new();
    for row in columns.fetch_all(&pool).await.unwrap() {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (not_null, key, default): (bool, bool, String) = (row.get(3), row.get(4), row.get(5));
        let kind = match kind.as_str() {
            "BLOB" => "bytes",
            "INTEGER" | "BIGINT" => "bigint",
            "DOUBLE PRECISION" => "double",
            "TEXT" => "text",
            "BOOLEAN" => "boolean",
            other => panic!("{table}.{column} has a type without a counterpart: {other}"),
        };
        let line = format!("{column} {kind} not_null={not_null} key={key} {default}");
        tables.entry(table).or_default().insert(line);
    }
    let indices =
        "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL";
    for row in sqlx::query(indices).fetch_all(&pool).await.unwrap() {
        let (table, name): (String, String) = (row.get(0), row.get(1));
        tables.entry(table).or_default().insert(format!("index {name}"));
    }
    tables
}

async fn postgres_tables(url: &str) -> Tables {
    let pool = ecosight_cloud::store::postgres_pool(url).await.unwrap();
    let columns = sqlx::query(
        "SELECT c.table_name::text, c.column_name::text, c.data_type::text, \
         c.is_nullable = 'NO', COALESCE(c.column_default, ''), \
         EXISTS (SELECT 1 FROM information_schema.key_column_usage k \
                 WHERE k.table_name = c.table_name AND k.column_name = c.column_name) \
         FROM information_schema.columns c \
         WHERE c.table_schema = 'public' AND c.table_name NOT LIKE '\\_sqlx%' \
         AND NOT (SELECT relispartition FROM pg_class WHERE oid = c.table_name::regclass)",
    );
    let mut tables = Tables::new();
    for row in columns.fetch_all(&pool).await.unwrap() {
        let (table, column, kind): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (not_null, default, key): (bool, String, bool) = (row.get(3), row.get(4), row.get(5));
        let kind = match kind.as_str() {
            "uuid" | "bytea" => "bytes",
            "double precision" => "double",
            known @ ("bigint" | "text" | "boolean") => known,
            other => panic!("{table}.{column} has a type without a counterpart: {other}"),
        };
        let default = default.trim_end_matches("::text");
        let line = format!("{column} {kind} not_null={not_null} key={key} {default}");
        tables.entry(table).or_default().insert(line);
    }
    let indices = "SELECT tablename::text, indexname::text FROM pg_indexes \
         WHERE schemaname = 'public' AND indexname NOT LIKE '%_pkey' AND tablename NOT LIKE '\\_sqlx%' \
         AND NOT (SELECT relispartition FROM pg_class WHERE oid = tablename::regclass)";
    for row in sqlx::query(indices).fetch_all(&pool).await.unwrap() {
        let (table, name): (String, String) = (row.get(0), row.get(1));
        tables.entry(table).or_default().insert(format!("index {name}"));
    }
    tables
}

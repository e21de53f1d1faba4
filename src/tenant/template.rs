//! Fresh clusters: initdb once per major version, its stopped data directory kept as the template of all root timelines.

use super::error::CreateError;
use super::registry::Registry;
use crate::pg::version::PgVersion;
use crate::postgres::{binaries, initdb, run_as_user, scratch};
use std::path::PathBuf;

impl Registry {
    /// The template of a version, made at first use: complete under its name, or absent.
    pub(super) async fn template(&self, version: PgVersion) -> Result<PathBuf, CreateError> {
        let _one_at_a_time = self.template.lock().await;
        let env = &self.shared.env;
        let config = &self.shared.config;
        let parent = config.data_dir.join("templates");
        let finished = parent.join(version.to_string());
        if env.disk.list(&finished).is_ok() {
            return Ok(finished);
        }
        let failed = |error: &dyn std::fmt::Display| CreateError::Template(error.to_string());
        let configured = config.postgres_versions().map_err(|e| failed(&e))?;
        let binaries = binaries::find_or_install(env, &configured, version).await.map_err(|e| failed(&e))?;
        let run_as = run_as_user(env, config.postgres.run_as.as_deref()).map_err(|e| failed(&e))?;
        // The server's user must reach it, whoever may read the data directory: initdb works in a place of its own.
        let scratch = scratch::scratch_directory(env, "template").await.map_err(|e| failed(&e))?;
        let data_dir = scratch.join("data");
        let spec = initdb::InitDbSpec { binaries: &binaries, data_dir: &data_dir, run_as: run_as.as_deref(), sync: false, extra_args: &[] };
        let made = initdb::run(env, &spec).await.map_err(|e| failed(&e));
        let copied = match made {
            Ok(()) => {
                env.disk.create_dir_all(&parent)?;
                let (disk, source, finished) = (env.disk.clone(), data_dir.clone(), finished.clone());
                env.tasks.blocking("keep-template", move || scratch::copy_tree(&*disk, &source, &finished)).await.map_err(CreateError::Disk)
            }
            Err(error) => Err(error),
        };
        env.disk.remove_dir_all(&scratch)?;
        copied?;
        Ok(finished)
    }
}

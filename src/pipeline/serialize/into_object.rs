//! An archive into an object: begun, gone on with by the parts that the store has, and read back.

use std::io;

use super::Work;
use super::failed::Failed;
use super::in_order::Begun;
use super::read_back::compare;
use crate::archive::follow::Standing;
use crate::medium::identity::Identity;
use crate::medium::object::reader::ObjectReader;
use crate::medium::object::writer::{self, Wanted};
use crate::medium::writing::object;
use crate::pipeline::copy::finished;

/// Begins the object, or goes on with it; `resumed` is told how much of the archive is there. `None`: all of it.
pub async fn begin(work: &Work<'_>, url: &str, archive: Identity, resumed: &mut u64) -> Result<Option<Begun>, Failed> {
    let Work { plan, options, .. } = work;
    let state = work.cx.stores.state();
    let wanted = Wanted { archive, length: plan.length, resume: options.resume, force: options.force, state };
    let begun = match writer::begin(url, &options.medium.objects, &wanted).await? {
        writer::Standing::Begun(begun) => begun,
        writer::Standing::Complete => {
            *resumed = plan.length;
            return Ok(None);
        }
    };
    *resumed = begun.offset();
    let from = Standing::at(plan, begun.restart(plan));
    let (writer, watch) = begun.start(from.offset);
    Ok(Some(Begun { output: object(writer), from, watch: Some(watch) }))
}

/// Reads the object back.
pub async fn read_back(work: &Work<'_>, url: &str) -> io::Result<()> {
    let opened = ObjectReader::open(url, &work.options.medium.objects).await?;
    let plan = work.plan.clone();
    finished(tokio::task::spawn_blocking(move || compare(opened.in_order(), &plan)).await)
}

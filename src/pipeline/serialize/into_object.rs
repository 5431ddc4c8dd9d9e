//! An archive into an object: begun, gone on with by the parts that the store has, and read back.

use std::io;

use bytes::Bytes;

use super::Work;
use super::failed::Failed;
use super::in_order::{Begun, Stands};
use super::read_back::compare;
use super::there::Place;
use crate::archive::follow::Standing;
use crate::medium::identity::Identity;
use crate::medium::object::reader::{ObjectReader, withdraw};
use crate::medium::object::writer::{self, Wanted};
use crate::medium::writing::object;
use crate::pipeline::copy::finished;

/// Begins the object, or goes on with it; `resumed` is told how much of the archive is there.
pub async fn begin(work: &Work<'_>, url: &str, archive: Identity, resumed: &mut u64) -> Result<Stands, Failed> {
    let Work { plan, options, .. } = work;
    let state = work.cx.stores.state();
    let wanted = Wanted { archive, length: plan.length, resume: options.resume, force: options.force, state };
    let begun = match writer::begin(url, &options.medium.objects, &wanted).await? {
        writer::Standing::Begun(begun) => begun,
        writer::Standing::Complete(length) => {
            *resumed = plan.length;
            return Ok(Stands::Complete(length));
        }
    };
    if options.compression.is_none() {
        *resumed = begun.offset();
    }
    let standing = Standing::at(plan, begun.restart(plan));
    let (writer, watch) = begun.start(standing.offset);
    let from = Place { length: standing.offset, standing, tail: Bytes::new() };
    Ok(Begun { output: object(writer), from, watch: Some(watch) }.into())
}

/// Reads the object back. An altered one is removed.
pub async fn read_back(work: &Work<'_>, url: &str) -> io::Result<()> {
    let access = &work.options.medium.objects;
    let opened = ObjectReader::open(url, access).await?;
    let plan = work.plan.clone();
    match finished(tokio::task::spawn_blocking(move || compare(opened.in_order(), &plan)).await) {
        Ok(()) => Ok(()),
        Err(e) => Err(withdraw(url, access, e).await),
    }
}

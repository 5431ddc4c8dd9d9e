//! Against programs that others wrote: registries (docker-registry), clients of ours (skopeo, podman, containerd, docker
//! against `mirror serve`) and readers of our archives. Invariant: where a program is missing the test says so and passes,
//! unless `MIRROR_REQUIRE_PEERS=1` and it is one of those that continuous integration installs: then it fails.

mod archives;
mod clients;
mod engines;
mod increments;
mod looking;
mod parts;
mod programs;
mod registries;
mod road;
mod short_roads;

//! The medium room.

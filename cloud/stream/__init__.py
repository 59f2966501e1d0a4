"""Kafka API consumers."""

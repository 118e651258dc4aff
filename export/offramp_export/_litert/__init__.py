"""LiteRT programs made of signatures: conversion, quantisation, and mending of the file."""
